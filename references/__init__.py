"""Slow, literal versions of what lib does fast: one file a family. Tests hold the two equal."""
