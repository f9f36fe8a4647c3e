"""Comparison of sweeps: paired tests, by seed, of the combinations that two sweeps share."""
