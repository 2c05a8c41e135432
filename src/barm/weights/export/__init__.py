"""Export of a trained step as one file that other programs load, checked against PyTorch before it is written."""
