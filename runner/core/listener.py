"""Who is told how a run gets on. Light: what only looks at runs needs no torch."""


class Listener:
    """Whoever wants to know how a run gets on."""

    def progress(self, step: int, steps: int, numbers: dict[str, float]) -> None:
        """After every piece of training."""
