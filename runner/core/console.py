"""Standard output, for tables and lines. Light: what only looks at runs needs no torch."""

from rich.console import Console


def console() -> Console:
    """As wide as it takes where it is no terminal, so that no line is cut or folded."""
    # What a user typed may hold brackets: it is never read as rich's markup.
    out = Console(highlight=False, markup=False)
    return out if out.is_terminal else Console(highlight=False, markup=False, width=200)
