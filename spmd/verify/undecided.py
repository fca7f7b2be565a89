"""What the verifier cannot decide, by name."""


class Undecided(Exception):
    """Something whose meaning is not known here: the text names it."""
