"""Data sets: a source is loaded, cut into training, validation and test splits, and handed out in batches."""
