"""Profiles that were measured: of a dataset version, with a backbone and its weights."""
