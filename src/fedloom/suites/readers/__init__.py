"""Readers: from the records of published files to items."""
