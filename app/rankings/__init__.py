"""Rankings: which of several networks suits a version best, measured and kept."""
