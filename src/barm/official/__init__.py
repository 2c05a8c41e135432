"""The command lines and checkpoints of the method's published code."""
