"""Collectives that compiled functions carry: they call a C library themselves, with no Python between two operators of a step."""
