"""The engine: train, evaluate and store any method, without knowing one by name."""
