"""Losses as pure functions that return `barm.batch.Term` ratios."""
