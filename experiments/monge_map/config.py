"""Every knob of the experiment."""

import dataclasses
from pathlib import Path

from experiments.monge_map.shapes import SHAPES
from jaxdiv import transport
from jaxdiv.checks import check_choice, check_integer, check_real
from jaxdiv.transport import CostFn

COSTS: dict[str, CostFn] = {"sqeuclidean": transport.sqeuclidean, "l1": transport.l1}


@dataclasses.dataclass(frozen=True)
class Config:
    """Fit a map between two sets in the plane, with and without the Monge gap, and compare with exact transport."""

    source: str = "moons"
    """Where points come from: moons, s_curve, ring, eight_gaussians or gaussian."""
    target: str = "s_curve"
    """Where the map has to bring them, moved to the right by 3: the same names."""
    cost: str = "sqeuclidean"
    """What moving a point costs: sqeuclidean or l1. The fit to the target always uses sqeuclidean."""
    gap_weight: float = 0.2
    """Weight of the Monge gap beside the Sinkhorn divergence in the second fit; the first has none. With 1 the map of
    the default task is held back from the target."""
    steps: int = 1500
    """Training steps of each fit."""
    batch_size: int = 256
    """Points of each set per step, drawn anew."""
    learning_rate: float = 2e-3
    """Adam's rate, falling to 0 as a cosine."""
    widths: tuple[int, ...] = (64, 64, 64)
    """Hidden layers of the map, a plain MLP with gelu."""
    fit_epsilon: float = 0.05
    """Strength of the Sinkhorn divergence, as a fraction of the mean squared distance within the target."""
    gap_epsilon: float = 0.01
    """Strength inside the Monge gap, as a fraction of the mean cost between source and target."""
    num_iters: int = 50
    """Sinkhorn iterations of each problem."""
    num_samples: int = 1000
    """Held-out points per evaluation."""
    evaluations: int = 10
    """Times the map is evaluated on the way, for the curves: at most, at equal distances of whole steps."""
    seed: int = 0
    """Of weights and points."""
    directory: Path | None = None
    """Where everything is written; None is runs/monge_map/SOURCE-TARGET-COST-seedSEED."""
    resume: bool = False
    """Go on with the interrupted run in that directory, with the same settings; starts one if there is none."""

    def __post_init__(self) -> None:
        check_choice("Config", "source", self.source, SHAPES)
        check_choice("Config", "target", self.target, SHAPES)
        check_choice("Config", "cost", self.cost, COSTS)
        for name in ("steps", "batch_size", "num_iters", "evaluations"):
            check_integer("Config", name, getattr(self, name), 1)
        check_integer("Config", "num_samples", self.num_samples, 100)  # the picture shows 100 arrows
        check_integer("Config", "seed", self.seed, 0)
        for width in self.widths or (0,):
            check_integer("Config", "widths", width, 1)
        check_real("Config", "gap_weight", self.gap_weight, 0)
        for name in ("learning_rate", "fit_epsilon", "gap_epsilon"):
            check_real("Config", name, getattr(self, name), 0, open_low=True)

    @property
    def run_directory(self) -> Path:
        """Where this run writes."""
        if self.directory is not None:
            return self.directory
        return Path("runs/monge_map") / f"{self.source}-{self.target}-{self.cost}-seed{self.seed}"
