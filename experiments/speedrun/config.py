"""The rules of a run (track, minutes, measure) and everything that a record may change."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from experiments.divergence_names import parse_divergence
from jaxdiv import distillation
from jaxdiv.checks import check_choice, check_range, fail
from jaxdiv.distillation import LogNormal, Method
from jaxdiv.divergences import reverse_kl
from jaxdiv.networks import UNetConfig

NUM_CLASSES = 10
R1_SCALE = 0.1
TIME_WEIGHTS = {
    "uniform": distillation.uniform,
    "epsilon_space": distillation.epsilon_space,
    "data_space": distillation.data_space,
    "data_space_squared": distillation.data_space_squared,
}


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """The U-Net of a run from scratch; from a fixed teacher the teacher's own is taken. 27.9M parameters by default."""

    channels: int = 128
    """Base width."""
    channel_mult: tuple[int, ...] = (1, 2, 2)
    """Width of each level, as a multiple of it."""
    num_blocks: int = 2
    """Residual blocks per level."""

    def unet(self, *, label_dim: int) -> UNetConfig:
        """The library's configuration."""
        return UNetConfig(
            model_channels=self.channels, channel_mult=self.channel_mult, num_blocks=self.num_blocks,
            label_dim=label_dim,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """How a teacher is trained from scratch."""

    batch_size: int = 512
    """Images per step."""
    learning_rate: float = 1e-3
    """Adam's largest rate."""
    warmup: float = 0.03
    """Share of the stage in which the rate rises from 0."""
    decay_from: float = 0.3
    """Share of the stage after which the rate falls to 0 as a cosine."""
    clip_norm: float = 1.0
    """Global gradient norm above which gradients are scaled down."""
    ema_images: float = 100_000
    """Half-life of the averaged weights, in images."""
    steps: int | None = None
    """Exactly so many steps, whatever time they take; None fills the stage's share of the minutes."""


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    """How the student is distilled. None is the published value of the method; other defaults did best so far."""

    batch_size: int = 256
    """Examples of each fake step and of the student's."""
    learning_rate: float = 1e-4
    """The student's largest rate, for Adam and (by matched update sizes) for Muon."""
    fake_rate_factor: float = 2.0
    """The fake score's rate as a multiple of the student's."""
    warmup: float = 0.01
    """Share of the stage in which rates rise from 0."""
    decay_from: float = 1.0
    """Share of the stage after which rates fall to 0 as a cosine; 1 keeps them, and the average settles the student."""
    adam_b1: float = 0.0
    """Adam's first decay, for student and fake score."""
    optimizer: Literal["adam", "muon"] = "adam"
    """The student's; Muon steps along the polar factor of every kernel, AdamW takes the rest."""
    fake_optimizer: Literal["adam", "muon"] = "adam"
    """The fake score's."""
    clip_norm: float = 10.0
    """Global gradient norm above which gradients are scaled down."""
    fake_steps: int | None = 1
    """Updates of the fake score per student update; published: 1 in SiD's line, 5 in DMD's."""
    init_sigma: float = 2.5
    """Noise level that the student pretends to see, whatever the method; published: 2.5 in SiD's line, 80 in DMD's."""
    frozen_convolutions: bool = False
    """Keep the student's 3x3 convolutions as the teacher's, which saves their gradients (GDD-I, arXiv 2405.20750)."""
    ratio: Literal["one", "through_x", "detached", "detached_repaired"] | None = None
    """How the density ratio enters; "one" is what released code of Uni-Instruct amounts to."""
    time_weight: Literal["uniform", "epsilon_space", "data_space", "data_space_squared"] | None = None
    """Weight of a noise level."""
    noise_mean: float | None = None
    """Mean of ln sigma in all steps, in place of the method's own laws."""
    noise_std: float = 1.2
    """Its standard deviation, where a mean is given."""
    sample_weight: Literal["none", "l1"] | None = None
    """Per-sample scale of the gradient."""
    gan_weight: float | None = 1.0
    """Weight of the adversarial term of a method that has one, beside a mean over pixels; published: 1e-4 to 3e-3. 0
    leaves it out."""
    discriminator_weight: float | None = None
    """Weight of the discriminator's loss beside the fake score's."""
    r1_weight: float | None = None
    """Weight of the penalty on the discriminator's gradient at real images, by one more forward pass."""
    feature_source: Literal["teacher", "fake"] | None = None
    """Whose features the discriminator reads."""
    gan_layers: tuple[int, ...] | None = None
    """Which of its feature maps (0 the finest, -1 the bottleneck); None is all."""
    ema_images: float = 50_000
    """Half-life of the averaged student, which is what is measured, in images."""
    steps: int | None = None
    """Exactly so many cycles, whatever time they take; None fills the stage's share of the minutes."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A run: the teacher (trained or fixed), the student, 50,000 samples and what the fixed measure says of them."""

    data_dir: Path = Path("data")
    """Folder with cifar10/ (either form of the data set), weights/ (the measure's networks) and, for the fixed track,
    teacher/."""
    track: Literal["teacher", "scratch"] = "teacher"
    """From the fixed teacher, or from nothing but the data."""
    teacher: Path | None = None
    """Another teacher for the fixed track: weights in EDM's names with config.json beside them."""
    conditional: bool = False
    """With classes; a fixed teacher must know them."""
    method: str = "sida"
    """A published method: diff_instruct, vsd, dmd2, sim, sid, sida, f_distill, uni_instruct."""
    divergence: str | None = None
    """f of D_f(teacher || student) for f_distill and uni_instruct, as in experiments.one_step_image."""
    alpha: float | None = None
    """SiD's alpha for the expanded methods; 0.5 is the exact gradient."""
    minutes: float | None = None
    """Of training, without compilation and measurements; None is 12 from the fixed teacher, 26 from scratch."""
    teacher_share: float = 0.4
    """The teacher's share of the minutes from scratch; the student has the rest."""
    piece_minutes: float | None = None
    """Wall-clock time of this process, after which it saves and ends with status 142; the same command with --resume
    goes on. None is no limit. A piece must load, compile and, at the end, measure for minutes: give it six or more."""
    resume: bool = False
    """Go on with the run in that directory, with the same settings; starts one if there is none."""
    directory: Path | None = None
    """Where everything is written; None is runs/speedrun/TRACK-METHOD-DIVERGENCE-seedSEED."""
    inception: Path | None = None
    """Weights of FID's Inception network, for one number more: called FID only if they are the published file."""
    cache: Path | None = None
    """Folder that keeps what is known of data and teachers between runs (their statistics and rows)."""
    seed: int = 0
    """Of weights, noise and the order of the data; samples for the measure have a seed of their own."""
    num_samples: int = 50_000
    """Samples in the final rows."""
    curve_samples: int = 10_000
    """Samples at each point of the curve."""
    curve_points: int | None = None
    """Points of the curve; None is one a minute."""
    teacher_levels: tuple[int, ...] = (18, 9, 11, 14)
    """Lengths n of the teacher's sampler, 2 n - 1 evaluations: the first makes its standard row, the one with the least
    distance at curve_samples its best row. Empty leaves the teacher out."""
    sample_batch: int = 256
    """Samples at once; the student's batch size lets XLA take the convolutions that it has chosen for training."""
    change: str = ""
    """What this run tries, in a few words: the record table prints it."""
    network: NetworkConfig = NetworkConfig()
    training: TeacherConfig = TeacherConfig()
    student: StudentConfig = StudentConfig()

    def __post_init__(self) -> None:
        check_choice("Config", "track", self.track, ("teacher", "scratch"))
        check_choice("Config", "method", self.method, distillation.METHODS)
        for name in ("num_samples", "curve_samples", "sample_batch"):
            check_range("Config", name, getattr(self, name), 1)
        for name in ("minutes", "piece_minutes"):
            if getattr(self, name) is not None:
                check_range("Config", name, getattr(self, name), 0, open_low=True)
        if self.curve_points is not None:
            check_range("Config", "curve_points", self.curve_points, 0)
        for num_levels in self.teacher_levels:
            check_range("Config", "teacher_levels", num_levels, 1)
        check_range("Config", "teacher_share", self.teacher_share, 0, 1, open_low=True, open_high=True)
        check_range("Config", "seed", self.seed, 0)
        _check_stage("training", self.training)
        _check_stage("student", self.student)
        student = self.student
        check_range("Config", "student.init_sigma", student.init_sigma, 0, open_low=True)
        check_range("Config", "student.fake_rate_factor", student.fake_rate_factor, 0, open_low=True)
        check_range("Config", "student.adam_b1", student.adam_b1, 0, 1, open_high=True)
        check_range("Config", "student.noise_std", student.noise_std, 0, open_low=True)
        for name in ("optimizer", "fake_optimizer"):
            check_choice("Config", f"student.{name}", getattr(student, name), ("adam", "muon"))
        if student.fake_steps is not None:
            check_range("Config", "student.fake_steps", student.fake_steps, 1)
        if student.time_weight is not None:
            check_choice("Config", "student.time_weight", student.time_weight, TIME_WEIGHTS)
        if self.track == "scratch":
            if self.teacher is not None:
                raise fail("Config", "teacher", f"is {self.teacher}", "none with track scratch, which trains its own")
            _ = self.unet  # its refusals
            num_maps = len(self.network.channel_mult) + 1
            for layer in student.gan_layers or ():
                check_range("Config", "student.gan_layers", layer, -num_maps, num_maps - 1)
        data_free = self.is_data_free  # asks for the method, which refuses what does not fit
        for name in ("gan_layers", "feature_source", "discriminator_weight"):
            if getattr(student, name) is not None and data_free:
                expected = f"none, since {self.method} has no discriminator here"
                raise fail("Config", f"student.{name}", "is given", expected)

    @property
    def unet(self) -> UNetConfig:
        """The network of a run from scratch."""
        return self.network.unet(label_dim=NUM_CLASSES if self.conditional else 0)

    @property
    def distillation_method(self) -> Method:
        """The published method with this run's settings put in, its loss a mean over pixels."""
        divergence = None if self.divergence is None else parse_divergence(self.divergence)
        method = distillation.method(self.method, divergence=divergence, alpha=self.alpha)
        if method.regression_weight > 0:
            raise fail("Config", "method", f"is {self.method}", "one that regresses onto no pairs of the teacher's")
        student = self.student
        objective = {name: getattr(student, name) for name in ("ratio", "sample_weight") if getattr(student, name)}
        if method.objective.divergence == reverse_kl():
            objective.setdefault("ratio", "one")  # its weight is 1 whatever the ratio: no head need be trained for it
        if student.time_weight is not None:
            objective["time_weight"] = TIME_WEIGHTS[student.time_weight]
        given = {
            "num_fake_steps": student.fake_steps,
            "feature_source": student.feature_source,
            "discriminator_weight": student.discriminator_weight,
            "r1_weight": student.r1_weight,
        }
        terms: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if student.r1_weight:
            terms["r1_scale"] = R1_SCALE
        if student.gan_weight is not None and method.gan_weight > 0:
            terms["gan_weight"] = student.gan_weight
        if student.noise_mean is not None:
            law = LogNormal(student.noise_mean, student.noise_std)
            terms |= {"student_noise": law, "fake_noise": law}
        objective = dataclasses.replace(method.objective, reduction="mean", **objective)
        return dataclasses.replace(method, objective=objective, **terms)

    @property
    def stage_minutes(self) -> dict[str, float]:
        """Minutes of the stages "teacher" and "student", in order."""
        minutes = self.minutes if self.minutes is not None else {"teacher": 12.0, "scratch": 26.0}[self.track]
        if self.track == "teacher":
            return {"student": minutes}
        return {"teacher": minutes * self.teacher_share, "student": minutes * (1 - self.teacher_share)}

    @property
    def is_data_free(self) -> bool:
        """Whether the student's stage sees no image of the data set."""
        return not self.distillation_method.needs_discriminator

    @property
    def settings_hash(self) -> str:
        """Six digits of all that makes the result of a run but its seed: such runs are one line of the table."""
        stages = {stage: self.fingerprint(stage) for stage in self.stage_minutes}
        for settings in stages.values():
            del settings["seed"]
        rest = (self.stage_minutes, self.num_samples, str(self.teacher))
        return hashlib.sha256(json.dumps([stages, rest], sort_keys=True).encode()).hexdigest()[:6]

    @property
    def run_directory(self) -> Path:
        """Where this run writes."""
        if self.directory is not None:
            return self.directory
        divergence = self.distillation_method.objective.divergence.name
        name = f"{self.track}-{self.method}-{divergence}-{self.settings_hash}-seed{self.seed}"
        return Path("runs/speedrun") / name

    def fingerprint(self, stage: str) -> dict[str, Any]:
        """What must not change between the start of a stage and its resumption."""
        shared = {"track": self.track, "conditional": self.conditional, "seed": self.seed}
        teacher = {name: dataclasses.asdict(getattr(self, name)) for name in ("network", "training")}
        if self.track == "teacher":
            teacher = {}
        student = {name: getattr(self, name) for name in ("method", "divergence", "alpha")}
        student["student"] = dataclasses.asdict(self.student)
        return shared | teacher | ({} if stage == "teacher" else student)


def _check_stage(group: str, settings: TeacherConfig | StudentConfig) -> None:
    check_range("Config", f"{group}.batch_size", settings.batch_size, 1)
    for name in ("ema_images", "learning_rate", "clip_norm"):
        check_range("Config", f"{group}.{name}", getattr(settings, name), 0, open_low=True)
    check_range("Config", f"{group}.decay_from", settings.decay_from, 0, 1)
    check_range("Config", f"{group}.warmup", settings.warmup, 0, settings.decay_from)
    if settings.steps is not None:
        check_range("Config", f"{group}.steps", settings.steps, 1)
