"""Processor time of `import jaxdiv` beyond jax's own import, each in a process of its own.

python -m benchmarks.import_time
"""

import statistics
import subprocess
import sys

SCRIPT = """
import time
import jax, jax.numpy
start = time.process_time()
import jaxdiv
print(time.process_time() - start)
"""


def main() -> None:
    runs = [float(subprocess.check_output([sys.executable, "-c", SCRIPT])) for _ in range(6)][1:]  # first: bytecode
    print(f"import jaxdiv: median {statistics.median(runs):.2f} s, from {min(runs):.2f} to {max(runs):.2f} s, 5 runs")


if __name__ == "__main__":
    main()
