"""Dry runs, and the combinations that they show."""

QUICK = ("model=mlp", "epochs=1")
DRY = (*QUICK, "dry_run=true", "sweep.probe=false")


def rows(out):
    """The table's rows, each a list of cells."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if line.startswith("│")]


def combinations(out):
    return [row[1] for row in rows(out)]
