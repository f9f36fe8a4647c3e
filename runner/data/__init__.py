"""Data sets: sources, their training, validation and test splits, and batches."""
