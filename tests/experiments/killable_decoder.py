"""Both trainings alone, for the kill tests: ``python -m tests.experiments.killable_decoder --directory DIR``."""

import argparse
from pathlib import Path

import jax

from experiments.language_model.config import Config
from experiments.language_model.run import train_decoder
from tests.experiments.small_decoder import SMALL, small_text


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--devices", type=int, default=1)
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", arguments.devices)
    # Experts and latents, so that every part of the state matters.
    changes = {"attention": "mla", "rope_dim": 8, "feed_forward": "moe", "num_experts": 4, "expert_hidden": 16}
    config = Config(directory=arguments.directory, **SMALL, **changes)
    for name in config.optimizers:
        train_decoder(config, name, small_text(), lambda params, balance: 1.0, arguments.directory / name)


if __name__ == "__main__":
    main()
