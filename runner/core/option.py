"""Option: the base class of all options of all groups."""

from runner.core.context import Context


class Option:
    """Base class of the runner's own options."""

    def check(self, context: Context) -> str | None:
        """Return in one line why this option cannot work in the combination, and the way out; None where it can."""
        return None

    def overrides(self, hook: str) -> bool:
        """Return whether this option overrides a hook of its group's base class."""
        classes = type(self).__mro__
        return getattr(type(self), hook) is not getattr(classes[classes.index(Option) - 1], hook)
