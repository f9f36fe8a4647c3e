"""Report of a folder of runs, made from its files alone."""

from pathlib import Path

from runner.core.errors import ConfigError
from runner.report.results.collect import RunRecord, collect
from runner.store.files import TABLE, write_atomic
from runner.store.ledger import sweep_of, with_results
from runner.store.owned import check_sweep_folder


def write_report(folder: Path) -> Path:
    """Write results.csv, results.parquet (if pyarrow is installed) and report.html into `folder`.

    Returns the path of report.html. Raises `ConfigError` if there are no runs, or if one of these files was written
    by another program.
    """
    # Imported here, because matplotlib and jinja2 take most of a second to import.
    from runner.report.page import render
    from runner.report.results.keys import label
    from runner.report.results.parquet import write_parquet
    from runner.report.surfaces import write_overlays
    from runner.report.tensorboard import write_aggregates

    records = runs_of(folder)
    check_sweep_folder(Path(folder))
    write_aggregates(Path(folder), records)
    write_parquet(write_results(folder, records))
    surfaces = write_overlays(Path(folder), records, label)
    path = Path(folder) / "report.html"
    write_atomic(path, render(records, Path(folder).resolve().name, surfaces), durable=False)
    return path


def write_results(folder: Path, records: list[RunRecord] | None = None) -> Path:
    """Write only `folder/results.csv` and return its path: fast enough to be called after every run."""
    from runner.report.results.tables import results_csv

    path = Path(folder) / TABLE
    write_atomic(path, results_csv(runs_of(folder) if records is None else records), durable=False)
    return path


def runs_of(folder: Path) -> list[RunRecord]:
    """Return the runs in `folder`. Raises `ConfigError` if there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; name one that holds runs, such as outputs/NAME")
    records = collect(folder)
    if not records:
        inner = sorted({str(sweep_of(run)) for run in with_results(folder)})
        hint = f"look into {', '.join(inner[:5])}" if inner else "a run leaves its result.json in outputs/NAME/RUN"
        raise ConfigError(f"{folder}: holds no runs; {hint}")
    return records
