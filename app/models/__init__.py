"""Models: named classifiers and their immutable versions."""
