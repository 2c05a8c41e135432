"""The engine: it trains, evaluates and stores any method, and knows none by name."""
