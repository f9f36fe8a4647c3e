"""`python -m runner.report DIR [DIR ...]`: write the report again from the files of the runs."""

import argparse
import sys
from pathlib import Path

from runner.core.errors import ConfigError
from runner.report import runs_of, write_report


def main(argv: list[str] | None = None) -> int:
    """Write results.csv and report.html into each folder; return 2, and write none, if a folder has no runs."""
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
