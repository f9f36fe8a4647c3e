"""Hydra's doors to `runner.sweep`: its sweepers and launchers. Light: Hydra imports it at every start."""
