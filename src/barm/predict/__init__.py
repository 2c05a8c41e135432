"""Prediction with a trained network, for images and for image files."""
