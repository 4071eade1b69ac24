"""How it is learned: one loop, and one file a strategy."""
