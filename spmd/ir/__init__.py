"""Relax modules as they come and as they are written, with nothing known of shardings: normal form, inlining, lifted constants."""
