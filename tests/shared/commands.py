"""Overrides of short commands."""

QUICK = ("model=mlp", "epochs=2", "log.images=0")
