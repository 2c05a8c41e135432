"""The processes of a run: what started them, how they are connected, how they watch each other."""
