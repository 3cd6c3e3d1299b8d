"""Kills a training command with SIGKILL at random moments, resumes it, and compares with a run that was left alone.

    python benchmarks/kill_and_resume.py --kills 10
    python benchmarks/kill_and_resume.py --kills 10 --command "python -m some.run --directory {directory}"

The command must resume by itself when started again, and write its checkpoints and ``metrics.jsonl`` below
``{directory}``. The moments are drawn over the records the run writes, then shifted by a random part of the time
between records, so they fall into steps, evaluations and saves alike. At the end every leaf of every newest checkpoint
must have the same bits, and every metrics file the same steps, each once.
"""

import argparse
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from jaxdiv.training import checkpoint_path, checkpoint_steps, load_leaves, read_metrics

KILLABLE = Path(__file__).resolve().parents[1] / "tests" / "training" / "killable.py"


def metrics_files(directory: Path) -> list[Path]:
    # os.walk, unlike rglob, bears folders that vanish under it
    return sorted(Path(folder, "metrics.jsonl") for folder, _, files in os.walk(directory) if "metrics.jsonl" in files)


def records(directory: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in metrics_files(directory))


def start(command: str, directory: Path) -> subprocess.Popen:
    arguments = shlex.split(command.replace("{directory}", shlex.quote(str(directory))))
    errors = tempfile.TemporaryFile()  # a pipe fills where nobody reads, which stops a command that prints its progress
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=errors)
    process.stderr = errors
    return process


def finish(process: subprocess.Popen) -> None:
    process.wait()
    with process.stderr as errors:
        errors.seek(0)
        if process.returncode:
            raise SystemExit(f"the command ended with {process.returncode}:\n{errors.read().decode()[-2000:]}")


def run_and_kill(command: str, directory: Path, moments: list[float], spread: float, rng: random.Random) -> list[str]:
    """Runs the command to its end, killing it whenever the number of records reaches the next moment."""
    killed = []
    for moment in moments:
        now = lowest = records(directory)
        process = start(command, directory)
        # A resumed run first drops the records beyond its checkpoint; it is at work once it has added one.
        while process.poll() is None and (now < moment or now <= lowest):
            time.sleep(0.002)
            now = records(directory)
            lowest = min(lowest, now)
        time.sleep(rng.uniform(0.0, spread))
        process.kill()
        if process.wait() != -9:
            break  # it ended before the kill
        process.stderr.close()
        unfinished = any(directory.rglob(".unfinished_*"))
        killed.append(f"at {records(directory)} records" + (", while saving" if unfinished else ""))
    finish(start(command, directory))
    return killed


def differences(one: Path, other: Path) -> list[str]:
    """What differs between the newest checkpoints and the metrics files of two runs."""
    found = []
    folders = sorted({path.parent.relative_to(one) for path in one.rglob("step_*") if path.is_dir()})
    if not folders:
        found.append("the run left no checkpoint")
    for folder in folders:
        steps = [checkpoint_steps(run / folder)[-1:] for run in (one, other)]
        if steps[0] != steps[1]:
            found.append(f"{folder}: newest steps {steps[0]} and {steps[1]}")
            continue
        a, b = (load_leaves(checkpoint_path(run / folder, steps[0][0])) for run in (one, other))
        names = [name for name in a | b if name not in a or name not in b or not same_bits(a[name], b[name])]
        found += [f"{folder}: leaf {name} differs" for name in names]
    for path in metrics_files(one):
        a, b = ([(r["split"], r["step"]) for r in read_metrics(p)] for p in (path, other / path.relative_to(one)))
        if a != b:
            found.append(f"{path.relative_to(one)}: the recorded steps differ")
    return found


def same_bits(a: object, b: object) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    default = f"{shlex.quote(sys.executable)} {shlex.quote(str(KILLABLE))} --directory {{directory}}"
    parser.add_argument("--command", default=default)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        alone, killed = Path(folder, "alone"), Path(folder, "killed")
        process = start(arguments.command, alone)
        while process.poll() is None and not records(alone):
            time.sleep(0.01)
        begin = time.monotonic()
        finish(process)
        total = records(alone)
        spread = (time.monotonic() - begin) / max(total, 1)
        moments = sorted(rng.uniform(0, total - 1) for _ in range(arguments.kills))
        for line in run_and_kill(arguments.command, killed, moments, spread, rng):
            print("killed", line)
        found = differences(alone, killed)
        if found:
            raise SystemExit("NOT the same after kills:\n  " + "\n  ".join(found))
    print(f"the same bits as the run that was left alone ({total} records)")


if __name__ == "__main__":
    main()
