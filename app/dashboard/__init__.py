"""The start page for browsers: what there is, what is going on, and where to go from there."""
