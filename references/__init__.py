"""Slow, literal versions of what lib does fast: one file a family. Tests compare the two."""
