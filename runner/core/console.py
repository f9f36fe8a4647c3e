"""Console: tables and lines on standard output. Imports no torch."""

from rich.console import Console


def console() -> Console:
    """Return the console for standard output: 200 columns wide where that is no terminal."""
    # no markup, because text that a user typed may hold brackets; a fixed width, because rich folds lines at 80 columns
    output = Console(highlight=False, markup=False)
    return output if output.is_terminal else Console(highlight=False, markup=False, width=200)
