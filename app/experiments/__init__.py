"""Control runs: whether pre-training raised the final score on a version, or only got there faster."""
