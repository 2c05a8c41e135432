"""Scores, all derived from confusion counts."""
