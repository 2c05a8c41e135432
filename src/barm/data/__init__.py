"""Data: images and masks of a data set, and how the steps of a run see them."""
