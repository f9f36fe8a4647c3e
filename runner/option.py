"""What every option of every group can be asked."""

from runner.context import Context


class Option:
    """The base of the runner's own options."""

    def check(self, context: Context) -> str | None:
        """Why this option cannot work in the combination, with the way out, in one line; None where it can."""
        return None
