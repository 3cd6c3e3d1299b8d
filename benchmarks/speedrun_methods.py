"""The speedrun's methods and choices at equal minutes from the fixed teacher, one after another in one process.

    python -m benchmarks.speedrun_methods --data-dir DATA --minutes 4
    python -m benchmarks.speedrun_methods --data-dir DATA --minutes 4 --only "sid 1.0" "dmd2" --seeds 0 1 2
    python -m benchmarks.speedrun_methods --data-dir DATA --piece-minutes 9     # again and again until status 0

Data, measure and the teacher's rows are made once. Finished runs below ``--out`` are not done again and an unfinished
one goes on, so a machine that limits a command finishes the table in several. Ends with the record table and the
curves.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from experiments.command_line import say
from experiments.speedrun.config import Config, StudentConfig
from experiments.speedrun.judge import make_measure
from experiments.speedrun.pixels import load_pixels
from experiments.speedrun.plots import save_curves
from experiments.speedrun.record import format_records, read_results, record_lines
from experiments.speedrun.run import run, use_compilation_cache
from jaxdiv.checks import fail

# The published methods, all with one fake step and the same adversarial weight (the defaults); then one choice at a
# time on top of the default.
SETTINGS: dict[str, dict[str, Any]] = {
    "f_distill jensen_shannon": {"method": "f_distill", "divergence": "jensen_shannon"},
    "f_distill kl": {"method": "f_distill", "divergence": "kl"},
    "f_distill reverse_kl": {"method": "f_distill", "divergence": "reverse_kl"},
    "sid 0.5": {"method": "sid", "alpha": 0.5},
    "sid 1.0": {"method": "sid", "alpha": 1.0},
    "sid 1.2": {"method": "sid", "alpha": 1.2},
    "sida": {"method": "sida"},
    "dmd2": {"method": "dmd2"},
    "uni_instruct kl": {"method": "uni_instruct", "divergence": "kl"},
    "uni_instruct jensen_shannon": {"method": "uni_instruct", "divergence": "jensen_shannon"},
    "uni_instruct reverse_kl": {"method": "uni_instruct", "divergence": "reverse_kl"},
    # What the released code amounts to: the ratio is 1 whatever the divergence.
    "uni_instruct kl, ratio one": {"method": "uni_instruct", "divergence": "kl", "student": {"ratio": "one"}},
    "uni_instruct kl, ratio through x": {
        "method": "uni_instruct",
        "divergence": "kl",
        "student": {"ratio": "through_x"},
    },
    "uni_instruct kl, ratio detached": {"method": "uni_instruct", "divergence": "kl", "student": {"ratio": "detached"}},
    "weight uniform in sigma": {"student": {"time_weight": "uniform"}},
    "weight in epsilon space": {"student": {"time_weight": "epsilon_space"}},
    "weight in data space": {"student": {"time_weight": "data_space"}},
    "weight in data space, squared": {"student": {"time_weight": "data_space_squared"}},
    "no adversarial term": {"student": {"gan_weight": 0.0}},
    "start at sigma 80": {"student": {"init_sigma": 80.0}},
    "beta1 0.9": {"student": {"adam_b1": 0.9}},
    "published adversarial weight": {"student": {"gan_weight": None}},
    "adversarial weight 0.1": {"student": {"gan_weight": 0.1}},
    "adversarial weight 0.3": {"student": {"gan_weight": 0.3}},
    "gradient penalty": {"student": {"r1_weight": 1.0}},
    "heads on the teacher": {"student": {"feature_source": "teacher"}},
    "head at the bottleneck": {"student": {"gan_layers": (-1,)}},
    "frozen convolutions": {"student": {"frozen_convolutions": True}},
    "ln sigma -0.5 +- 1": {"student": {"noise_mean": -0.5, "noise_std": 1.0}},
    "equal rates": {"student": {"fake_rate_factor": 1.0}},
    "rate 2e-4": {"student": {"learning_rate": 2e-4}},
    "rate 5e-5": {"student": {"learning_rate": 5e-5}},
    "batches of 128": {"student": {"batch_size": 128}},
    "rates that decay from the middle": {"student": {"decay_from": 0.5}},
    "two fake steps": {"student": {"fake_steps": 2}},
    "Muon for the fake score": {"student": {"fake_optimizer": "muon"}},
    "Muon for both": {"student": {"optimizer": "muon", "fake_optimizer": "muon"}},
    "average over 200,000 images": {"student": {"ema_images": 200_000.0}},
}


def config_of(name: str, seed: int, out: Path, **shared: Any) -> Config:
    """The run of one setting and seed, in a folder of its own below ``out``."""
    settings = dict(SETTINGS[name])
    student = StudentConfig(**settings.pop("student", {}))
    folder = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in name)
    directory = out / f"{folder}-seed{seed}"
    return Config(directory=directory, seed=seed, change=name, resume=True, student=student, **settings, **shared)


def _is_finished(config: Config) -> bool:
    """Whether its folder holds the result of this very run; that of another is an error."""
    for result in read_results([config.run_directory]):
        if result["facts"]["settings_hash"] != config.settings_hash:
            raise fail("speedrun_methods", "out", f"has {config.run_directory} of other settings", "another folder")
        return result["finished"]
    return False


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="see docs/speedrun.md")
    parser.add_argument("--minutes", type=float, default=4.0, help="of training, each")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--piece-minutes", type=float, help="wall-clock limit of this process; it then ends with 142")
    parser.add_argument("--samples", type=int, default=50_000, help="in the final rows")
    parser.add_argument("--out", type=Path, default=Path("runs/speedrun_methods"))
    args = parser.parse_args(argv)

    use_compilation_cache(args.out / "cache")
    deadline = None if args.piece_minutes is None else time.monotonic() + 60 * args.piece_minutes
    shared = {"data_dir": args.data_dir, "minutes": args.minutes, "num_samples": args.samples}
    shared |= {"cache": args.out / "cache", "curve_points": max(round(args.minutes), 1)}
    configs = [config_of(name, seed, args.out, **shared) for seed in args.seeds for name in args.only]
    # A run whose piece ended before the teacher's rows has results and is not finished.
    to_do = [c for c in configs if not _is_finished(c)]
    if to_do:
        splits = load_pixels(args.data_dir)
        measure = make_measure(to_do[0], *splits)
    for i, config in enumerate(to_do):
        say(f"{config.change}, seed {config.seed} ({i + 1} of {len(to_do)})")
        left = None if deadline is None else max((deadline - time.monotonic()) / 60, 1e-3)
        run(dataclasses.replace(config, piece_minutes=left), splits, measure)

    results = read_results([config.run_directory for config in configs])
    table = format_records(record_lines(results))
    (args.out / "table.md").write_text(table + "\n", encoding="utf-8")
    (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    save_curves(args.out / "curves.png", results)
    print(table)


if __name__ == "__main__":
    main()
