"""Hardware profiles: the numbers behind predicted times and the memory of a worker, as data."""

from .known import profile_of, profile_taken
from .model import Link, Profile

__all__ = ["Link", "Profile", "profile_of", "profile_taken"]
