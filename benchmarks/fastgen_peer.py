"""NVIDIA FastGen's training iteration, run by its own classes from a checkout, on random images on the device.

    python -m benchmarks.fastgen_peer --fastgen DIR --settings '{"method": "dmd2", ...}'

The child process of ``benchmarks.fastgen_cycle``, which writes the settings; it prints one JSON line, and imports torch
and no JAX. FastGen's are the configuration's defaults, network, discriminator, losses, noise schedule, optimizers,
``Trainer.train_step`` (autocast, backward pass, optimizer and schedule), the clipping callback and the moving average.
Ours are the data, the loop and the clock.

What FastGen imports and a machine may lack is put into ``sys.modules``, in two ways, and nothing timed goes through it:

- a placeholder, for what the timed methods never use (the other networks and data loaders of FastGen; diffusers, wandb,
  boto3 and others): any name can be imported from it and whatever is called raises, so that a run that ends has used
  none;
- a stand-in, for two packages that are used before the first iteration: omegaconf (a dict with attributes is what the
  configurations need) and loguru (whose messages are dropped, also the few of the timed callbacks).

An installed package is always preferred, except for FastGen's own unused modules, which need versions of other
libraries that no machine has together.

FastGen's EDM network gives features only after encoder blocks called "block3". Where a level has fewer blocks, its last
one takes that name here, which changes the order of nothing; the discriminator, which has one width, reads the levels
that have it.
"""

import argparse
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import statistics
import subprocess
import sys
import time
import types
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

THIRD_PARTY = (
    "av", "boto3", "botocore", "diffusers", "einops", "ftfy", "hydra", "imageio", "pandas", "PIL", "psutil", "requests",
    "scipy", "torchvision", "wandb", "webdataset", "yaml",
)  # fmt: skip
UNUSED_NETWORKS = (
    "CogVideoX", "DiT", "EDM2", "Flux", "QwenImage", "SD15", "SDXL", "VaceWan", "Wan", "WanI2V", "cosmos_predict2",
)  # fmt: skip
UNUSED = ("fastgen.datasets", *(f"fastgen.networks.{name}" for name in UNUSED_NETWORKS))
METHODS = {
    "dmd2": ("fastgen.configs.methods.config_dmd2", "DMD2Model"),
    "dmd2_without_gan": ("fastgen.configs.methods.config_dmd2", "DMD2Model"),
    "f_distill": ("fastgen.configs.methods.config_f_distill", "FdistillModel"),
}


class Variant(NamedTuple):
    """How FastGen is run; each field is a setting of its own but ``compiled``."""

    precision: str = "float32"
    """Of weights, moments and data."""
    amp: str | None = "bfloat16"
    """Autocast in the forward pass; None is none."""
    callbacks: bool = True
    """Its clipping of the student's gradient and one moving average, at every iteration as its trainer calls them."""
    compiled: bool = False
    """``torch.compile`` of the networks, which FastGen does not offer for this one."""


VARIANTS = {
    "shipped": Variant(),
    "float32": Variant(amp=None),
    "bare": Variant(callbacks=False),
    "bfloat16": Variant(precision="bfloat16", amp=None, callbacks=False),
    "compiled": Variant(compiled=True),
    "compiled_bare": Variant(callbacks=False, compiled=True),
}
"""float32 (with TF32) is what FastGen's CIFAR-10 configurations say; bfloat16 autocast is the setting of its larger
ones."""


class DictConfig(dict):
    """omegaconf's, as far as FastGen's configurations need it: a dict whose keys are attributes."""

    def __init__(self, content: dict | None = None, flags: Any = None):
        super().__init__(content or {})

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __reduce__(self) -> tuple:
        return DictConfig, (dict(self),)


class ListConfig(list):
    """omegaconf's list, of which no configuration here has one."""


class _Silent:
    """loguru's logger without output."""

    def __getattr__(self, name: str) -> Callable:
        return lambda *args, **kwargs: self


class _Names(type):
    """A class with every public name in it, as enumerations of unused modules are asked for theirs at import."""

    def __getattr__(cls, key: str) -> str:
        if key.startswith("__"):
            raise AttributeError(key)
        return f"{cls.__name__}.{key}"


def placeholder(name: str) -> types.ModuleType:
    """A module from which any public name can be imported, as a class that cannot be called."""
    module = types.ModuleType(name)
    module.__path__ = []

    def attribute(key: str) -> type:
        if key.startswith("__"):
            raise AttributeError(key)

        def refuse(self: Any, *args: Any, **kwargs: Any) -> None:
            raise RuntimeError(f"{name}.{key} is a placeholder and must not be used")

        made = _Names(key, (), {"__init__": refuse, "__module__": name})
        setattr(module, key, made)
        return made

    module.__getattr__ = attribute  # type: ignore[method-assign]
    return module


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds placeholders for everything at or below the given names."""

    def __init__(self, names: Iterable[str]):
        self.names = frozenset(names)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        parts = fullname.split(".")
        if any(".".join(parts[: i + 1]) in self.names for i in range(len(parts))):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return placeholder(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def missing(names: Sequence[str]) -> list[str]:
    """Those that cannot be found."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def install() -> dict[str, list[str]]:
    """Makes FastGen importable; returns what was put in place of missing packages."""
    absent = missing(THIRD_PARTY)
    sys.meta_path.insert(0, _Finder((*absent, *UNUSED)))
    stand_ins = missing(("omegaconf", "loguru"))
    if "omegaconf" in stand_ins:
        module = placeholder("omegaconf")
        module.DictConfig, module.ListConfig = DictConfig, ListConfig  # type: ignore[attr-defined]
        sys.modules["omegaconf"] = module
    if "loguru" in stand_ins:
        module = types.ModuleType("loguru")
        module.logger = _Silent()  # type: ignore[attr-defined]
        sys.modules["loguru"] = module
    return {"placeholders": absent, "stand_ins": stand_ins}


def renamed_blocks(names: Sequence[str], num_blocks: int) -> list[str]:
    """Encoder names in which every level's last block is called "block3", where FastGen looks for features."""
    if num_blocks == 4:
        return list(names)
    if num_blocks > 4:
        raise ValueError(f"num_blocks is {num_blocks}: FastGen's features would be those of the fourth of them")
    return [name.replace(f"_block{num_blocks - 1}", "_block3") for name in names]


def feature_levels(channel_mult: Sequence[int]) -> list[int]:
    """Levels of the encoder that have the largest width, which is the one width of FastGen's discriminator."""
    return [i for i, mult in enumerate(channel_mult) if mult == max(channel_mult)]


def commit(folder: Path) -> str:
    """The checkout's commit, or "unknown" where the folder is an export without its history."""
    if not (folder / ".git").exists():
        return "unknown"
    done = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def build(settings: dict[str, Any], variant: Variant, device: str) -> tuple[Any, Any]:
    """FastGen's model on the device with its optimizers, and its configuration."""
    name, unet = settings["method"], settings["unet"]
    module, model_name = METHODS[name]
    config = importlib.import_module(module).create_config()
    model = config.model
    for key, value in {
        "img_resolution": unet["image_size"], "img_channels": unet["channels"], "label_dim": 0, "augment_dim": 0,
        "model_channels": unet["model_channels"], "channel_mult": list(unet["channel_mult"]), "dropout": 0.0,
        "channel_mult_emb": unet["channel_mult_emb"], "num_blocks": unet["num_blocks"],
        "attn_resolutions": list(unet["attn_resolutions"]),
    }.items():  # fmt: skip
        model.net[key] = value
    levels = feature_levels(unet["channel_mult"])
    model.discriminator.feature_indices = set(levels)
    model.discriminator.all_res = [unet["image_size"] >> i for i in range(len(unet["channel_mult"]))]
    model.discriminator.in_channels = unet["model_channels"] * max(unet["channel_mult"])
    model.input_shape = [unet["channels"], unet["image_size"], unet["image_size"]]
    model.device, model.pretrained_model_path = device, ""
    model.precision, model.precision_amp = variant.precision, variant.amp
    model.student_update_freq = settings["fake_steps"] + 1  # every so many iterations one is the student's
    if name == "dmd2_without_gan":
        model.gan_loss_weight_gen = 0.0
    model.use_ema = variant.callbacks
    callbacks = importlib.import_module("fastgen.configs.callbacks")
    config.trainer.callbacks = {**callbacks.GradClip_CALLBACK, **callbacks.EMA_CALLBACK} if variant.callbacks else {}
    config.trainer.logging_iter = sys.maxsize  # wandb's calls are part of no cycle
    config.dataloader_train.batch_size = settings["batch"]
    made = getattr(importlib.import_module("fastgen.methods"), model_name)(config.model)
    for network in networks(made).values():
        blocks = list(network.model.enc.items())
        names = renamed_blocks([key for key, _ in blocks], unet["num_blocks"])
        network.model.enc = type(network.model.enc)(dict(zip(names, (block for _, block in blocks), strict=True)))
    made.on_train_begin()
    made.init_optimizers()
    return made, config


def networks(model: Any) -> dict[str, Any]:
    """The three that a cycle runs; the moving average is only updated."""
    return {"student": model.net, "fake": model.fake_score, "teacher": model.teacher}


def count_passes(model: Any, cycle: Callable[[], Any]) -> dict[str, int]:
    """Passes through each network's encoder and decoder in one cycle, by hooks on their first and last convolution.

    Backward passes count where the gradient arrives there, whether for parameters or for the input.
    """
    counts: Counter[str] = Counter()
    handles = []

    def watch(name: str, module: Any) -> None:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            counts[f"{name} forward"] += 1
            if output.requires_grad:
                output.register_hook(lambda gradient: counts.update([f"{name} backward"]))

        handles.append(module.register_forward_hook(hook))

    for name, network in networks(model).items():
        watch(f"{name} encoder", next(iter(network.model.enc.values())))
        watch(f"{name} decoder", list(network.model.dec.values())[-1])
    cycle()
    for handle in handles:
        handle.remove()
    return dict(sorted(counts.items()))


def measure(settings: dict[str, Any], device: str) -> dict[str, Any]:
    """Builds, counts, times; the row without what only the caller knows."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    cuda = device == "cuda"
    variant = VARIANTS[settings["variant"]]
    # As FastGen's start script sets them from the defaults of its configurations.
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    torch.manual_seed(0)
    model, config = build(settings, variant, device)
    trainer_class = importlib.import_module("fastgen.trainer").Trainer
    callback_dict = importlib.import_module("fastgen.callbacks.callback").CallbackDict
    trainer = types.SimpleNamespace(config=config)
    trainer.callbacks = callback_dict(config=config, trainer=trainer)
    trainer.callbacks.on_model_init_end(model)
    batch, shape = settings["batch"], model.input_shape
    data = {
        "real": torch.rand(batch, *shape, device=device, dtype=model.precision) * 2 - 1,
        "condition": None,
        "neg_condition": None,
    }
    iteration, losses = 0, {}

    def cycle() -> None:
        nonlocal iteration
        for _ in range(settings["fake_steps"] + 1):  # the last is the student's
            iteration += 1
            loss, outputs = trainer_class.train_step(trainer, model, model, data, iteration, 0)
            trainer.callbacks.on_training_step_end(
                model=model, data_batch=data, output_batch=outputs, loss_dict=loss, iteration=iteration
            )
            losses.update(loss)

    passes = count_passes(model, cycle)
    with FlopCounterMode(display=False) as flops:
        cycle()
    if variant.compiled:
        for network in networks(model).values():
            network.model.compile()
    start = time.perf_counter()
    for _ in range(settings["warmup"]):
        cycle()
    wait = torch.cuda.synchronize if cuda else lambda: None
    wait()
    first_seconds = time.perf_counter() - start
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(settings["repeats"]):
        start = time.perf_counter()
        for _ in range(settings["steps"]):
            cycle()
        wait()
        seconds.append((time.perf_counter() - start) / settings["steps"])
    heads = getattr(model, "discriminator", None)
    return {
        "ms": statistics.median(seconds) * 1e3,
        "ms_of_each_repeat": [s * 1e3 for s in seconds],
        "warmup_seconds": first_seconds,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
        "parameters": sum(p.numel() for p in model.net.parameters()),
        "head_parameters": sum(p.numel() for p in heads.parameters()) if heads is not None else 0,
        "passes": passes,
        "tflop": flops.get_total_flops() / 1e12,
        "losses": {key: float(value.float().mean()) for key, value in sorted(losses.items())},
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "versions": {"torch": torch.__version__, "cudnn": torch.backends.cudnn.version() if cuda else None},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fastgen", type=Path, required=True, help="a checkout of github.com/NVlabs/FastGen")
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    args = parser.parse_args()
    sys.path.insert(0, str(args.fastgen.resolve()))
    put_in_place = install()
    row = measure(args.settings, args.device)
    print(json.dumps(row | put_in_place | {"commit": commit(args.fastgen)}), flush=True)


if __name__ == "__main__":
    main()
