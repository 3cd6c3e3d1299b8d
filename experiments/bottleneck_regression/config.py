"""Every knob of the experiment."""

import dataclasses
from pathlib import Path

from experiments.bottleneck_regression.data import NAMES
from experiments.bottleneck_regression.methods import METHODS, Widths
from experiments.bottleneck_regression.splits import LEAST_ROWS
from jaxdiv.checks import check_choice, check_integer, check_real, fail
from jaxdiv.information.cauchy_schwarz import VARIANTS


@dataclasses.dataclass(frozen=True)
class Config:
    """Information bottlenecks for regression held side by side: accuracy, compression, robustness."""

    data: tuple[str, ...] = ("diabetes",)
    """Regression sets: diabetes is embedded; california_housing, energydata, beijing_pm25, bike_hour and
    qsar_fish_toxicity are read from --data-dir."""
    data_dir: Path | None = None
    """Folder of the real sets' files."""
    max_rows: int | None = None
    """At most so many rows of a set, drawn anew by each split; None is all."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Names in METHODS, each with its own betas."""
    num_seeds: int = 3
    """Splits, each with its own first weights."""
    steps: int = 200
    """Training steps, rounded up to whole epochs."""
    batch_size: int = 128
    """Rows per step; the pairwise rates are those of a batch."""
    learning_rate: float = 1e-3
    """Adam's rate, falling to 0 as a cosine."""
    select: str = "rmse"
    """What chooses each network's epoch on validation rows: rmse, alike for all methods, or the method's own loss."""
    width: int = 128
    """Of every hidden layer and of the representation."""
    noise: float = 0.1
    """Standard deviation of the representation's noise: fixed for HSIC and CS-IB, where NIB's and VIB's starts. MSE
    has none."""
    x_sigma: float = 1.0
    """Width of the Gaussian kernel on x for CS-IB and HSIC; the paper's code has 1 for all three."""
    y_sigma: float = 1.0
    """On y and predictions, in standard units."""
    representation_sigma: float = 1.0
    """On T."""
    variant: str = "published"
    """Denominators of CS-IB's prediction term: published, the paper's, or released, its code's."""
    hsic_ridge: float = 1e-3
    """Ridge of the normalised HSIC."""
    info_rows: int = 512
    """Rows on which I(X; T) is estimated, at most: the estimate stops at their logarithm."""
    compressions: tuple[float, ...] = (0.25, 0.5, 0.75)
    """Ratios r at which methods are held against each other."""
    epsilons: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.4)
    """Sizes of the attacks, in standard deviations of each column."""
    pgd_steps: int = 10
    """Steps of the projected gradient."""
    seed: int = 0
    """First of the splits; also of weights, batches and noise."""
    directory: Path | None = None
    """Where everything is written; None is runs/bottleneck_regression/SETS-seedSEED."""
    resume: bool = False
    """Keep what is finished in that directory and go on; starts a run if there is nothing."""

    def __post_init__(self) -> None:
        for name, choices in (("data", NAMES), ("methods", tuple(METHODS))):
            if not getattr(self, name):
                raise fail("Config", name, "is empty", "names")
            for choice in getattr(self, name):
                check_choice("Config", name, choice, choices)
        if self.max_rows is not None:
            check_integer("Config", "max_rows", self.max_rows, LEAST_ROWS)
        for name, least in {"num_seeds": 2, "batch_size": 2, "info_rows": 2, "seed": 0}.items():
            check_integer("Config", name, getattr(self, name), least)
        for name in ("steps", "width", "pgd_steps"):
            check_integer("Config", name, getattr(self, name), 1)
        for name in ("learning_rate", "noise", "x_sigma", "y_sigma", "representation_sigma", "hsic_ridge"):
            check_real("Config", name, getattr(self, name), 0, open_low=True)
        check_choice("Config", "select", self.select, ("loss", "rmse"))
        check_choice("Config", "variant", self.variant, VARIANTS)
        for name in ("compressions", "epsilons"):
            for value in getattr(self, name) or (-1.0,):
                check_real("Config", name, value, 0.0, 1.0 if name == "compressions" else float("inf"))

    @property
    def widths(self) -> Widths:
        """What the kernel methods need."""
        return Widths(self.x_sigma, self.y_sigma, self.representation_sigma, self.variant, self.hsic_ridge)

    @property
    def run_directory(self) -> Path:
        """Where this run writes."""
        if self.directory is not None:
            return self.directory
        return Path("runs/bottleneck_regression") / f"{'-'.join(self.data)}-seed{self.seed}"
