"""Every knob of the experiment."""

import dataclasses
from pathlib import Path

from experiments.estimator_benchmark.estimators import ESTIMATORS
from jaxdiv.checks import check_choice, check_flag, check_integer, fail
from jaxdiv.information import TASKS

SHORT_TASKS = (
    "normal-1x1",
    "additive-0.1",
    "wiggly-normal-1x1",
    "student-1x1-df1",
    "dense-5x5",
    "sparse-5x5",
    "spiral-sparse-5x5",
)
SHORT_SIZES, FULL_SIZES = (100, 1000), (100, 500, 1000, 3000, 5000, 10000)
SHORT_SEEDS, FULL_SEEDS = 3, 10


@dataclasses.dataclass(frozen=True)
class Config:
    """Hold estimators of mutual information against tasks whose truth is known: bias and spread by task and size."""

    full: bool = False
    """Everything: forty tasks, sizes from 100 to 10,000, ten seeds, trained critics too. Wants a GPU. What is set below
    by hand stays as it is set."""
    tasks: tuple[str, ...] | None = None
    """Names in jaxdiv.information.TASKS; None is seven of them, or all with --full."""
    estimators: tuple[str, ...] | None = None
    """Names in ESTIMATORS; None is all that train nothing, or all with --full."""
    sizes: tuple[int, ...] | None = None
    """Numbers of samples; None is 100 and 1000, or six up to 10,000 with --full. Smaller samples are the first rows of
    the largest."""
    num_seeds: int | None = None
    """Data sets per task; None is 3, or 10 with --full."""
    critic_steps: int = 2000
    """Training steps of each critic."""
    seed: int = 0
    """Of the data and of what the estimators draw."""
    directory: Path | None = None
    """Where everything is written; None is runs/estimator_benchmark/short-seedSEED or full-seedSEED."""
    resume: bool = False
    """Keep the finished cells in that directory and go on; starts a run if there is none."""

    def __post_init__(self) -> None:
        check_flag("Config", "full", self.full)
        for name, choices in (("tasks", TASKS), ("estimators", ESTIMATORS)):
            chosen = getattr(self, name)
            if chosen is not None and not chosen:
                raise fail("Config", name, "is empty", "names, or None")
            for choice in chosen or ():
                check_choice("Config", name, choice, choices)
        for size in (0,) if self.sizes == () else self.sizes or ():
            check_integer("Config", "sizes", size, 20)
        if self.num_seeds is not None:
            check_integer("Config", "num_seeds", self.num_seeds, 2)
        check_integer("Config", "critic_steps", self.critic_steps, 1)
        check_integer("Config", "seed", self.seed, 0)

    @property
    def chosen_tasks(self) -> tuple[str, ...]:
        """The tasks of this run."""
        return self.tasks or (tuple(TASKS) if self.full else SHORT_TASKS)

    @property
    def chosen_estimators(self) -> tuple[str, ...]:
        """The estimators of this run."""
        return self.estimators or tuple(name for name, entry in ESTIMATORS.items() if self.full or not entry.trained)

    @property
    def chosen_sizes(self) -> tuple[int, ...]:
        """The numbers of samples of this run, ascending."""
        return tuple(sorted(self.sizes or (FULL_SIZES if self.full else SHORT_SIZES)))

    @property
    def seeds(self) -> int:
        """The number of data sets of each task."""
        return self.num_seeds or (FULL_SEEDS if self.full else SHORT_SEEDS)

    @property
    def run_directory(self) -> Path:
        """Where this run writes."""
        if self.directory is not None:
            return self.directory
        return Path("runs/estimator_benchmark") / f"{'full' if self.full else 'short'}-seed{self.seed}"
