"""Imports and compiled templates of the report; import this module while the runs train, to save the time later."""

import runner.report.results.parquet
import runner.report.surfaces
import runner.report.tensorboard  # noqa: F401
from runner.report.page import environment

for name in environment().list_templates(extensions=["j2"]):
    environment().get_template(name)
