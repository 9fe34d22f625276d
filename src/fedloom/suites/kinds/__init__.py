"""Kinds of tasks: how a model is asked, and how what it gives is graded."""
