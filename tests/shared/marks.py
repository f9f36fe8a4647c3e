"""Marks that several test files share."""

import pytest

from runner.core.startup import is_plain

quick = pytest.mark.skipif(is_plain(), reason="RUNNER_PLAIN=1 turns off what this test is about")
