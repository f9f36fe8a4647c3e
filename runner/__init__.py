"""A configuration-driven experiment runner for image classifiers."""

__version__ = "0.1.0"
