"""Hydra's doors to `runner.sweep`: sweeper `grid`, launcher `local`. Light: Hydra imports it at every start."""
