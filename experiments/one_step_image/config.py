"""Every knob of the experiment, with the values that the measurements on digits recommend."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from experiments.divergence_names import parse_divergence
from jaxdiv import distillation
from jaxdiv.checks import check_choice, check_range, fail
from jaxdiv.distillation import LogNormal, Method
from jaxdiv.divergences import reverse_kl


def _check_counts(group: str, **counts: int) -> None:
    for name, value in counts.items():
        check_range("Config", f"{group}.{name}".lstrip("."), value, 1)


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """How the teacher is trained, where none is given."""

    steps: int = 7000
    """Training steps."""
    batch_size: int = 128
    """Images per step."""
    learning_rate: float = 1e-3
    """Adam's rate after a warm-up of 300 steps; it falls as 1/sqrt(step) after half of the steps."""
    ema_decay: float = 0.9995
    """Decay per step of the averaged weights, which are the teacher."""
    seed: int = 0
    """Of weights, noise and order of the data."""

    def __post_init__(self) -> None:
        _check_counts("training", steps=self.steps, batch_size=self.batch_size)
        check_range("Config", "training.seed", self.seed, 0)
        check_range("Config", "training.learning_rate", self.learning_rate, 0, open_low=True)
        check_range("Config", "training.ema_decay", self.ema_decay, 0, 1, open_high=True)


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    """How the student is distilled. Fields that may be None then take the published value of the method."""

    cycles: int = 2400
    """Student updates."""
    batch_size: int = 64
    """Examples of each step."""
    learning_rate: float | Literal["auto"] = "auto"
    """Adam's rate for the student, falling linearly to 0; auto is 5e-4 where a density ratio enters the gradient and
    1e-3 elsewhere."""
    fake_rate_factor: float = 2.0
    """Adam's rate for the fake score and the discriminator head, as a multiple of the student's."""
    adam_b1: float | Literal["auto"] = "auto"
    """Adam's first decay; auto is Diff-Instruct's own 0 for it, and 0.9 for the others."""
    clip_norm: float = 10.0
    """Global gradient norm above which gradients are scaled down."""
    fake_steps: int | None = 2
    """Updates of the fake score per student update."""
    init_sigma: float = 2.5
    """Noise level that the student pretends to see: it starts as the teacher's denoiser there."""
    latent_dims: int | None = None
    """Only so many latent numbers reach the student, the others are 0: a student that cannot match its teacher, so the
    choice of divergence shows. None is all."""
    noise_mean: float | Literal["auto"] | None = "auto"
    """Mean of ln sigma in both steps; auto is -1 for methods with a discriminator that looks after detail, and -0.5
    where there is none or where its ratio enters the gradient; None takes the method's own laws."""
    noise_std: float | Literal["auto"] = "auto"
    """Standard deviation of ln sigma; auto is 1.5 for Diff-Instruct, and 1 for the others."""
    gan_weight: float | None = 0.1
    """Weight of the adversarial term, beside a mean over pixels, for methods that have one."""
    discriminator_weight: float | None = 0.1
    """Weight of the discriminator loss beside the fake score's."""
    sample_weight: Literal["none", "l1"] | None = "l1"
    """Per-sample scale: "l1" is steadier, "none" keeps the gradient exact."""
    real: Literal["data", "teacher"] = "data"
    """What the discriminator is shown as real: images of the data set, or the teacher's samples (then data-free)."""
    ema_decay: float = 0.995
    """Decay per cycle of the averaged student, which is what is evaluated."""
    seed: int = 0
    """Of noise, discriminator head and order of the data."""
    evaluations: int = 10
    """Times the student is evaluated on the way, for the curves."""

    def __post_init__(self) -> None:
        _check_counts("distill", cycles=self.cycles, batch_size=self.batch_size, evaluations=self.evaluations)
        if self.latent_dims is not None:
            _check_counts("distill", latent_dims=self.latent_dims)
        check_range("Config", "distill.seed", self.seed, 0)
        for name in ("init_sigma", "learning_rate", "fake_rate_factor", "clip_norm", "noise_std"):
            if getattr(self, name) != "auto":
                check_range("Config", f"distill.{name}", getattr(self, name), 0, open_low=True)
        if self.adam_b1 != "auto":
            check_range("Config", "distill.adam_b1", self.adam_b1, 0, 1, open_high=True)
        check_range("Config", "distill.ema_decay", self.ema_decay, 0, 1, open_high=True)


@dataclasses.dataclass(frozen=True)
class Config:
    """Train or load a teacher, distil it into a one-step student, evaluate both, plot."""

    method: str = "uni_instruct"
    """One of the published methods: diff_instruct, vsd, dmd, dmd2, sim, sid, sida, f_distill, uni_instruct."""
    divergence: str | None = None
    """f of D_f(teacher || student) for f_distill and uni_instruct: kl, reverse_kl, jensen_shannon, jeffreys,
    squared_hellinger, pearson_chi2, neyman_chi2, softened_reverse_kl, le_cam, alpha(0.3), jensen_shannon(0.3),
    skew_kl(0.3); quote the parentheses. None is the method's own."""
    alpha: float | None = None
    """SiD's alpha for the expanded methods: 0.5 is the exact gradient. None is 0.5 for sid, since the 1.2 of its paper
    ends farther from these digits, and the method's own for the others."""
    data: str = "digits"
    """Data set: digits (embedded), mnist, fashion_mnist or cifar10."""
    data_dir: Path | None = None
    """Folder of prepared data sets, see `python -m jaxdiv.data.prepare --help`; None is $JAXDIV_DATA or
    ~/.cache/jaxdiv."""
    network: Literal["auto", "mlp", "unet"] = "auto"
    """Architecture of teacher, fake score and student; auto is the MLP up to 8x8 pixels and the U-Net above."""
    channels: int = 64
    """Base width of the U-Net; 8x8 pixels have a U-Net of fixed width."""
    teacher: Path | None = None
    """Start from this teacher: the folder of an earlier run with the same data and network, or one with an EDM-format
    NAME_teacher.npz and its config.json."""
    directory: Path | None = None
    """Where everything is written; None is runs/one_step_image/DATA-METHOD-DIVERGENCE-seedSEED, the student's seed."""
    resume: bool = False
    """Go on with the interrupted run in that directory, with the same settings; starts one if there is none."""
    num_samples: int = 5000
    """Generated images per evaluation."""
    teacher_levels: tuple[int, ...] = (18, 5, 7, 9, 11, 14)
    """Lengths n of the teacher's sampler, 2 n - 1 network evaluations each: the first makes its standard row and the
    pairs, the one with the least distance its best row."""
    pairs: int = 6000
    """Noise-image pairs of the teacher's ODE for the regression control (and for DMD); 0 leaves the control out."""
    control_steps: int = 400
    """Training steps of the regression control."""
    classifier_steps: int = 2500
    """Training steps of the classifier in whose features samples are compared."""
    save_every: int = 600
    """Teacher steps and student cycles between checkpoints."""
    tensorboard: bool = False
    """Write TensorBoard event files too."""
    training: TeacherConfig = TeacherConfig()
    distill: StudentConfig = StudentConfig()

    def __post_init__(self) -> None:
        check_choice("Config", "method", self.method, distillation.METHODS)
        _check_counts(
            "", channels=self.channels, control_steps=self.control_steps, classifier_steps=self.classifier_steps,
            save_every=self.save_every,
        )  # fmt: skip
        check_range("Config", "num_samples", self.num_samples, 100)  # the grids show 100
        check_range("Config", "pairs", self.pairs, 0)
        for num_levels in self.teacher_levels or (0,):
            check_range("Config", "teacher_levels", num_levels, 1)
        method = self.distillation_method
        if self.pairs == 0 and method.regression_weight > 0:
            raise fail("Config", "pairs", "is 0", f"at least 1, since {self.method} regresses onto pairs")
        if self.pairs == 0 and method.needs_discriminator and self.distill.real == "teacher":
            raise fail("Config", "pairs", "is 0", "at least 1, since distill.real is 'teacher'")

    @property
    def distillation_method(self) -> Method:
        """The published method with this task's settings put in."""
        divergence = None if self.divergence is None else parse_divergence(self.divergence)
        alpha = 0.5 if self.alpha is None and self.method == "sid" else self.alpha
        method = distillation.method(self.method, divergence=divergence, alpha=alpha)
        student = self.distill
        changes: dict[str, Any] = {}
        if student.fake_steps is not None:
            changes["num_fake_steps"] = student.fake_steps
        if student.noise_mean is not None:
            automatic = -1.0 if method.needs_discriminator and not _ratio_enters(method) else -0.5
            automatic_std = 1.5 if self.method == "diff_instruct" else 1.0
            law = LogNormal(
                automatic if student.noise_mean == "auto" else student.noise_mean,
                automatic_std if student.noise_std == "auto" else student.noise_std,
            )
            changes |= {"student_noise": law, "fake_noise": law}
        if method.gan_weight > 0:
            if student.gan_weight is not None:
                changes["gan_weight"] = student.gan_weight
            if student.discriminator_weight is not None:
                changes["discriminator_weight"] = student.discriminator_weight
        objective = dataclasses.replace(method.objective, reduction="mean")
        if student.sample_weight is not None:
            objective = dataclasses.replace(objective, sample_weight=student.sample_weight)
        return dataclasses.replace(method, objective=objective, **changes)

    @property
    def adam_b1(self) -> float:
        """The student's and the fake score's first decay."""
        if self.distill.adam_b1 != "auto":
            return self.distill.adam_b1
        return 0.0 if self.method == "diff_instruct" else 0.9

    @property
    def learning_rate(self) -> float:
        """The student's."""
        if self.distill.learning_rate != "auto":
            return self.distill.learning_rate
        return 5e-4 if _ratio_enters(self.distillation_method) else 1e-3

    @property
    def run_directory(self) -> Path:
        """Where this run writes."""
        if self.directory is not None:
            return self.directory
        divergence = self.distillation_method.objective.divergence.name
        return Path("runs/one_step_image") / f"{self.data}-{self.method}-{divergence}-seed{self.distill.seed}"

    def student_fingerprint(self) -> dict[str, Any]:
        """What must not change between the start and the resumption of a student's training."""
        shared = ("method", "divergence", "alpha", "data", "network", "channels", "pairs")
        own = {"distill": dataclasses.asdict(self.distill), "pairs_levels": self.teacher_levels[0]}
        return {name: getattr(self, name) for name in shared} | own

    def teacher_fingerprint(self) -> dict[str, Any]:
        """The same for a teacher's training."""
        shared = ("data", "network", "channels")
        return {name: getattr(self, name) for name in shared} | {"training": dataclasses.asdict(self.training)}


def _ratio_enters(method: Method) -> bool:
    """Whether the gradient depends on the estimated ratio, which a finer law of sigma or a higher rate make erratic."""
    return method.objective.ratio != "one" and method.objective.divergence != reverse_kl()
