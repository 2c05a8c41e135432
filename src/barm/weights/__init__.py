"""Weights from and for other programs: published checkpoints, torchvision, hubs, exported files."""
