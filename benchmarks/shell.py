"""Whole commands from the shell, start-up counted: the median of several runs.

python benchmarks/shell.py [--repeats 5]
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time

COMMANDS = {
    "runner --help": ["--help"],
    "a sweep of two combinations, one epoch on digits": ["-m", "optimizer=sgd,adam", "epochs=1"],
    "the same again (all done)": ["-m", "optimizer=sgd,adam", "epochs=1"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            for name, words in COMMANDS.items():
                start = time.perf_counter()
                subprocess.run([sys.executable, "-m", "runner", *words], cwd=folder, check=True, capture_output=True)
                seconds[name].append(time.perf_counter() - start)
    rows = [f"| {name} | {statistics.median(values):.2f} |" for name, values in seconds.items()]
    sys.stdout.write("\n".join(["| command | seconds |", "|---|---|", *rows]) + "\n")


if __name__ == "__main__":
    main()
