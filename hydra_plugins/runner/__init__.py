"""Hydra plugins of `runner.sweep`: sweepers and launchers. Hydra imports them at every start, so they load no torch."""
