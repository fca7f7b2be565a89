"""Notebooks that show spmd; `run.py` executes them and writes what they print."""
