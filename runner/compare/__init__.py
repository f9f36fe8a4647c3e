"""Two sweeps side by side: the combinations that stand in both, seed by seed."""
