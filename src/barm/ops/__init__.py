"""The numerical engine under the losses: interpolated logits, strip by strip or in a kernel."""
