"""Extraction: what a generated text says, and whether it is right."""
