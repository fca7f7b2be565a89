"""The plan as data, and as JSON."""
