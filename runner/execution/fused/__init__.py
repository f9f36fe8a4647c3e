"""Fused runs: one program trains several runs with stacked networks and stacked optimizers."""
