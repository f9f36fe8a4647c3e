"""What every option of every group can be asked."""

from runner.core.context import Context


class Option:
    """The base of the runner's own options."""

    def check(self, context: Context) -> str | None:
        """Why this option cannot work in the combination, with the way out, in one line; None where it can."""
        return None

    def overrides(self, hook: str) -> bool:
        """Whether this option has a hook of its own, not that of its group's base."""
        kinds = type(self).__mro__
        return getattr(type(self), hook) is not getattr(kinds[kinds.index(Option) - 1], hook)
