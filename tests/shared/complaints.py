"""Complaints about a combination of overrides."""

from runner.build.check import check
from runner.build.complaints import Refused
from runner.core.errors import ConfigError
from runner.task.resources import Resources
from tests.shared.configs import composed

FEW = ("data.limit=200",)


def complaints(*overrides):
    """The lines that `check`, or else the rehearsal, has about a combination."""
    try:
        Resources().preflight(check(composed(*overrides)))
    except Refused as error:
        return error.lines
    except ConfigError as error:
        return [str(error)]
    return []
