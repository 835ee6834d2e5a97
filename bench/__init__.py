"""Measurements, each one command; see README.md in this folder."""
