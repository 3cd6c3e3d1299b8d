"""Every knob of the experiment."""

import dataclasses
from pathlib import Path

from experiments.optimizer_solutions.optimizers import OPTIMIZERS
from experiments.optimizer_solutions.tasks import CLASSES_PER_TASK, SUITES
from jaxdiv.checks import check_choice, check_integer, check_real, fail
from jaxdiv.data import DATASETS


@dataclasses.dataclass(frozen=True)
class Config:
    """Train one small network on tasks in sequence with several optimizers, and see what each has kept at the end."""

    data: str = "digits"
    """digits (embedded), or mnist, fashion_mnist or cifar10 where they are prepared."""
    data_dir: Path | None = None
    """Where prepared data sets lie; None is jaxdiv's own place."""
    suites: tuple[str, ...] = tuple(SUITES)
    """class_incremental (pairs of classes, one shared head over all) and permuted (all classes, shuffled pixels)."""
    optimizers: tuple[str, ...] = OPTIMIZERS
    """sgd (momentum), adamw, shampoo (all matrices), shampoo_hidden and muon (the head by AdamW), muon_all (all
    matrices)."""
    num_tasks: int = 5
    """Tasks in sequence."""
    steps: int = 100
    """Training steps of each task."""
    batch_size: int = 64
    """Images per step, drawn with replacement from the task's."""
    widths: tuple[int, ...] = (128, 128)
    """Hidden layers, with relu."""
    seeds: int = 10
    """Runs that are reported: weights and batches drawn anew in each."""
    tuning_seeds: int = 2
    """Runs per learning rate when it is chosen; other seeds than the reported ones, and images held out from
    training. With seeds = tuning_seeds * num_rates, choice and report share one compilation."""
    num_rates: int = 5
    """Learning rates tried for every optimizer, half a power of ten apart."""
    weight_decay: float = 0.0
    """Of all matrices, per unit of learning rate; at 0, what optimizers keep differs by their directions alone."""
    seed: int = 0
    """Of weights, batches and permutations."""
    directory: Path | None = None
    """Where everything is written; None is runs/optimizer_solutions/DATA-seedSEED."""
    overwrite: bool = False
    """Replace the results in that directory. There is nothing to resume: a run takes minutes."""

    def __post_init__(self) -> None:
        check_choice("Config", "data", self.data, DATASETS)
        for argument, choices in (("suites", SUITES), ("optimizers", OPTIMIZERS)):
            names = getattr(self, argument)
            for name in names:
                check_choice("Config", argument, name, choices)
            if not names or len(set(names)) < len(names):
                raise fail("Config", argument, f"is {names}", f"one or more of {tuple(choices)}, each once")
        num_classes = len(DATASETS[self.data].label_names)
        check_integer("Config", "num_tasks", self.num_tasks, 2, num_classes // CLASSES_PER_TASK)
        for name in ("steps", "batch_size", "tuning_seeds", "num_rates"):
            check_integer("Config", name, getattr(self, name), 1)
        check_integer("Config", "seeds", self.seeds, 2)  # a standard deviation needs two
        for width in self.widths or (0,):
            check_integer("Config", "widths", width, 1)
        check_real("Config", "weight_decay", self.weight_decay, 0)
        check_integer("Config", "seed", self.seed, 0)

    @property
    def run_directory(self) -> Path:
        """Where this run writes."""
        if self.directory is not None:
            return self.directory
        return Path("runs/optimizer_solutions") / f"{self.data}-seed{self.seed}"
