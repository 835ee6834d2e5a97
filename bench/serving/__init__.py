"""How fast and how steady classifiers are served, beside what people use today."""
