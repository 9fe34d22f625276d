"""Comparisons: a grid of runs over variants and seeds, the data prepared and the base model loaded once."""
