"""Training: a small character model, its step with Adam, and the loop."""
