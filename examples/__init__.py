"""Whole models, written with the public names of spmd only."""
