"""IFEval's verifiable instructions (arXiv 2311.07911): whether a text follows them is decided by programs."""
