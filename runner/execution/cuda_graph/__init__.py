"""The gradients of a step replayed as one CUDA graph."""
