"""Numerical operations under the losses: formulas over interpolated logits, strip by strip or in a kernel."""
