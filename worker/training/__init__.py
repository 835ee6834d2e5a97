"""Training as a function of values: a network, images, a plan, and `emit`. Knows no web, database, queue or settings."""
