"""Backbones: the networks that can be fine-tuned, their weights, and what is done to an image before they see it."""
