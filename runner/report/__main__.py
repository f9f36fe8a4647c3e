"""`python -m runner.report DIR [DIR ...]`: makes the report again from what the runs left."""

import argparse
import sys
from pathlib import Path

from runner.core.errors import ConfigError
from runner.report import runs_of, write_report


def main(argv: list[str] | None = None) -> int:
    """Writes results.csv and report.html into each folder; 2 where one has no runs (then none is written)."""
    parser = argparse.ArgumentParser(
        prog="python -m runner.report",
        description="Writes results.csv and report.html into each folder of runs, from the folder alone.",
    )
    parser.add_argument("folders", metavar="DIR", nargs="+", type=Path, help="a sweep's folder, or a lone run's")
    folders = parser.parse_args(argv).folders
    try:
        for folder in folders:
            runs_of(folder)
        for folder in folders:
            sys.stdout.write(f"{write_report(folder)}\n")
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except OSError as error:  # a folder that cannot be written
        sys.stderr.write(f"{error.filename}: {error.strerror}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
