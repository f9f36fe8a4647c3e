"""Files on disk: what they are called, how they are written, and when they go."""
