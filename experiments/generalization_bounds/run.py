"""Do information bounds track the generalization gap over depth, width, weight decay, training sets and seeds?

    python -m experiments.generalization_bounds.run                # 162 networks, about three minutes on one core
    python -m experiments.generalization_bounds.run --seed 1 --label-noise 0
    python -m experiments.generalization_bounds.run --help         # every setting

Two parts. Small tanh networks with noise on every hidden unit learn few digits; the terms of the bottleneck's bounds
(Kawaguchi et al., arXiv:2305.18887) and plain baselines are correlated with their gaps, over all networks and with one
knob varying at a time. And in problems whose gap is known, the hierarchical bounds (He, Goldfeld, arXiv:2404.03176) are
held against it, over n, dimension and depth. Writes a line of JSON per network and per closed-form problem, tables and
pictures, and prints the tables.
"""

import dataclasses
import json
import time
from typing import Any

from tqdm import tqdm

from experiments.command_line import run_command
from experiments.generalization_bounds.config import Config
from experiments.generalization_bounds.digits import load_digits
from experiments.generalization_bounds.known_tables import Row, format_known, known_rows, violations
from experiments.generalization_bounds.learn import learn_group
from experiments.generalization_bounds.plots import save_known, save_ranking, save_scatter
from experiments.generalization_bounds.quantities import measure_group, parameter_information
from experiments.generalization_bounds.records import GAPS, Network, make_records
from experiments.generalization_bounds.tables import format_networks, rank_measures
from jaxdiv.checks import fail


def run(config: Config) -> tuple[list[Network], list[Row]]:
    """A record per network and a row per closed-form problem; also writes all into ``config.run_directory``."""
    directory, started = config.run_directory, time.perf_counter()
    file = directory / "networks.jsonl"
    if file.exists():
        raise fail("run", "directory", f"{directory} holds an earlier run", "another --directory")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=1, default=str) + "\n")
    networks: list[Network] = []
    digits = load_digits(config)
    with file.open("w", encoding="utf-8") as lines, tqdm(config.shapes, unit="shape", dynamic_ncols=True) as bar:
        for depth, width in bar:
            bar.set_description(f"depth {depth}, width {width}")
            learned = learn_group(config, digits, depth=depth, width=width)
            measured = measure_group(config, digits, learned)
            parameters = parameter_information(config, learned)
            records = make_records(config, measured, parameters, depth=depth, width=width)
            lines.writelines(json.dumps(record) + "\n" for record in records)
            lines.flush()
            networks += records
    rows = list(tqdm(known_rows(config), desc="closed forms", unit="problem", dynamic_ncols=True))
    (directory / "known.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    options: dict[str, Any] = {"resamples": config.resamples, "seed": config.seed}
    rankings = {gap: rank_measures(networks, gap, **options) for gap in GAPS}
    (directory / "rankings.json").write_text(json.dumps(rankings, indent=1) + "\n", encoding="utf-8")
    tables = format_networks(networks, rankings) + "\n\n" + format_known(rows)
    tables += f"\n\nGaps above a bound by more than three standard errors: {len(violations(rows))} of {len(rows)}."
    (directory / "table.md").write_text(tables + "\n", encoding="utf-8")
    save_scatter(directory / "gaps.png", networks)
    save_ranking(directory / "rankings.png", rankings)
    save_known(directory / "known.png", rows)
    print(tables)
    print(f"\nTables, records and pictures are in {directory} ({time.perf_counter() - started:.0f} s).")
    return networks, rows


def main() -> None:
    """The command line."""
    run_command(Config, run, description=__doc__, interrupted="the directory has the networks so far")


if __name__ == "__main__":
    main()
