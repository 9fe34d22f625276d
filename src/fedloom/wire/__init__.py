"""Tensors on their way between clients and server: bytes, and checks on everything received."""
