"""Jobs: runs of work that takes a while, leased to workers."""
