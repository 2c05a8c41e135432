"""Prediction: a trained network as a function of images, and of files of images."""
