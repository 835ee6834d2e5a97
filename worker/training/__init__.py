"""Training as a function of values: network, images, plan, `emit`. Knows no web, database, queue or settings."""
