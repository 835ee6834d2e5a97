"""Predictions: labels for images, from loaded classifiers."""
