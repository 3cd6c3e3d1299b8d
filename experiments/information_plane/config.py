"""Every knob of the experiment."""

import dataclasses
from pathlib import Path

from experiments.information_plane.models import ACTIVATIONS
from jaxdiv.checks import check_choice, check_flag, check_integer, check_real, fail

TASKS = ("bits", "digits")
ENCODERS = ("pca", "autoencoder")
EPOCHS = {"bits": 1000, "digits": 100}
SNAPSHOTS = {"bits": 10, "digits": 12}
BATCH_SIZES = {"bits": 512, "digits": 128}
NUM_INPUTS = {"bits": 4096, "digits": 1797}


@dataclasses.dataclass(frozen=True)
class Config:
    """Train networks and follow their layers through the information plane, by several estimators."""

    task: str = "bits"
    """bits: all patterns of twelve bits, a network 12-10-7-5-4-3-2; digits: 8x8 images, a convolutional network with
    noise in its layers."""
    labels_file: Path | None = None
    """A .mat or .npz file with the twelve bits' patterns F and labels y; None is the labels of this experiment."""
    activations: tuple[str, ...] = ("tanh", "relu")
    """Of the hidden layers: tanh, relu."""
    num_seeds: int = 3
    """Networks of each activation, with weights, split and order of their own."""
    epochs: int | None = None
    """None is 1000 for the bits and 100 for the digits."""
    snapshots: int | None = None
    """Times at which all layers are measured, about: 0 and then equal ratios; None is 10 for the bits and 12 for the
    digits."""
    learning_rate: float = 1e-3
    """Adam's."""
    batch_size: int | None = None
    """None is 512 for the bits and 128 for the digits."""
    bins: int = 30
    """Of equal width, on [-1, 1] and on the layer's own range (bits)."""
    variance: float = 0.1
    """Of the noise that is added to a layer to measure it, not to train (bits)."""
    k: int = 5
    """Neighbours."""
    noise: float = 0.1
    """Standard deviation of the noise in every hidden layer, in training too (digits)."""
    code_dims: int = 4
    """Dimensions to which images and layers are compressed (digits)."""
    encoder: str = "pca"
    """What compresses the images: pca or autoencoder (digits)."""
    seed: int = 0
    """The first network's; the others count on."""
    directory: Path | None = None
    """Where everything is written; None is runs/information_plane/TASK-seedSEED."""
    overwrite: bool = False
    """Replace the run that is in that directory."""

    def __post_init__(self) -> None:
        check_choice("Config", "task", self.task, TASKS)
        check_choice("Config", "encoder", self.encoder, ENCODERS)
        if not self.activations or len(set(self.activations)) < len(self.activations):
            raise fail("Config", "activations", f"is {self.activations}", "names, each once")
        for activation in self.activations:
            check_choice("Config", "activations", activation, ACTIVATIONS)
        for name, low in (("num_seeds", 1), ("bins", 2), ("seed", 0)):
            check_integer("Config", name, getattr(self, name), low)
        check_integer("Config", "k", self.k, 1, NUM_INPUTS[self.task] - 1)
        check_integer("Config", "code_dims", self.code_dims, 1, 32)  # the dense layer has no more
        for name, low, high in (
            ("epochs", 1, float("inf")),
            ("snapshots", 3, float("inf")),
            ("batch_size", 1, int(0.8 * NUM_INPUTS[self.task])),
        ):
            if getattr(self, name) is not None:
                check_integer("Config", name, getattr(self, name), low, high)
        for name in ("learning_rate", "variance", "noise"):
            check_real("Config", name, getattr(self, name), 0, open_low=True)
        check_flag("Config", "overwrite", self.overwrite)
        if self.labels_file is not None and self.task != "bits":
            raise fail("Config", "labels_file", f"is {str(self.labels_file)!r} with task 'digits'", "task 'bits'")

    @property
    def chosen_epochs(self) -> int:
        """The epochs of this run."""
        return self.epochs or EPOCHS[self.task]

    @property
    def chosen_snapshots(self) -> int:
        """The snapshots of this run."""
        return self.snapshots or SNAPSHOTS[self.task]

    @property
    def chosen_batch_size(self) -> int:
        """The batch size of this run."""
        return self.batch_size or BATCH_SIZES[self.task]

    @property
    def run_directory(self) -> Path:
        """Where this run writes."""
        return self.directory or Path("runs/information_plane") / f"{self.task}-seed{self.seed}"
