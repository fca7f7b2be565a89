"""Predicted times and bytes: operators, transfers, what is fused, and what symbolic sizes are taken for."""
