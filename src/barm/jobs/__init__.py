"""Grids on many devices and machines: one job per run, through submitit."""
