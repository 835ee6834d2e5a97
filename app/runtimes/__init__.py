"""Runtimes: what executes a classifier, each in some precision. Knows artifacts, no database and no HTTP."""
