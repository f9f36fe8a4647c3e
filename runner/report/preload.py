"""Imported while the runs of a sweep are done: everything that its report will need, loaded and compiled."""

import runner.report.results.parquet
import runner.report.surfaces
import runner.report.tensorboard  # noqa: F401
from runner.report.page import environment

for name in environment().list_templates(extensions=["j2"]):
    environment().get_template(name)
