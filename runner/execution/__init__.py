"""Execution strategies of training steps: eager, compiled, CUDA graphs, fused runs, several processes."""
