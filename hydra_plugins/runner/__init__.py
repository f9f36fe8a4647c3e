"""Hydra's doors to `runner.sweep`: the sweeper `grid` and the launcher `local`. Light: Hydra imports it at every start."""
