"""The processes of a run: their launcher, their connections, and how they watch each other."""
