"""CUDA graphs of the gradient computation of a step."""
