"""Hardware profiles: the numbers behind predicted times and the memory of a worker, as data."""

from .known import profile_of
from .model import Link, Profile

__all__ = ["Link", "Profile", "profile_of"]
