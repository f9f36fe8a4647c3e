"""Imported while the runs of a sweep are done: everything that its report will need, loaded and compiled."""

import runner.report.parquet
import runner.surface.overlay
import runner.tracking.aggregate  # noqa: F401
from runner.report.page import environment

for name in environment().list_templates(extensions=["j2"]):
    environment().get_template(name)
