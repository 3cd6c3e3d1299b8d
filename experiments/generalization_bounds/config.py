"""Every knob of the experiment."""

import dataclasses
from pathlib import Path

from jaxdiv.checks import check_integer, check_real, fail

NUM_DIGITS, NUM_TEST = 1797, 797


@dataclasses.dataclass(frozen=True)
class Config:
    """Train small noisy networks on few digits and ask which quantity ranks their generalization gaps."""

    depths: tuple[int, ...] = (2, 3, 4)
    """Numbers of hidden layers."""
    widths: tuple[int, ...] = (8, 32, 128)
    """Units of every hidden layer."""
    weight_decays: tuple[float, ...] = (0.0, 0.1, 1.0)
    """Decoupled weight decay of the kernels, as in AdamW: a step shrinks them by learning_rate times this."""
    num_draws: int = 3
    """Training sets; they share no order, but images, since all come from the same 1000."""
    num_seeds: int = 2
    """Of initial weights, batches and noise; the same for every training set and weight decay."""
    num_train: int = 300
    """Images of a training set."""
    label_noise: float = 0.1
    """Probability that a label, of training or of test, is replaced by a random one."""
    noise: float = 0.5
    """Standard deviation of the normal noise that every hidden unit gets behind its tanh, in training and in test."""
    steps: int = 1500
    """Training steps of every network."""
    average_steps: int = 300
    """Of these, the last ones, whose mean and variance are the posterior of the parameters."""
    batch_size: int = 50
    """Images per step, drawn with replacement."""
    learning_rate: float = 2e-3
    """Adam's, constant: the iterates of the posterior must go on moving."""
    noise_draws: int = 8
    """Passes over which a loss is averaged."""
    resamples: int = 1000
    """Of the bootstrap."""
    trials: int = 20000
    """Simulated training sets of each closed-form problem."""
    seed: int = 0
    """Of everything."""
    directory: Path | None = None
    """Where everything is written; None is runs/generalization_bounds/seedSEED."""

    def __post_init__(self) -> None:
        for name in ("depths", "widths", "weight_decays"):
            chosen = getattr(self, name)
            if not chosen or len(set(chosen)) < len(chosen):
                raise fail("Config", name, f"is {chosen}", "different values, at least one")
            for value in chosen:
                if name == "weight_decays":
                    check_real("Config", name, value, 0)
                else:
                    check_integer("Config", name, value, 1)
        for name, low in (("num_draws", 2), ("num_seeds", 1), ("noise_draws", 1), ("batch_size", 1), ("steps", 1)):
            check_integer("Config", name, getattr(self, name), low)
        check_integer("Config", "num_train", self.num_train, 20, NUM_DIGITS - NUM_TEST)
        check_integer("Config", "average_steps", self.average_steps, 2, self.steps)
        check_integer("Config", "resamples", self.resamples, 10)
        check_integer("Config", "trials", self.trials, 100)
        check_integer("Config", "seed", self.seed, 0)
        check_real("Config", "label_noise", self.label_noise, 0, 1)
        for name in ("noise", "learning_rate"):
            check_real("Config", name, getattr(self, name), 0, open_low=True)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Depth and width of every group of networks that one program trains."""
        return [(depth, width) for depth in self.depths for width in self.widths]

    @property
    def run_directory(self) -> Path:
        """Where this run writes."""
        return self.directory or Path("runs/generalization_bounds") / f"seed{self.seed}"
