"""spmd: the SPMD compiler for Apache TVM Relax."""

from . import testing
from .annotate import hint
from .errors import ShardingError
from .mesh import Mesh
from .pipeline import ShardedModule, lower, plan, shard
from .plan import Plan
from .profile import Profile
from .propagate import rule
from .sharding import P, Sharding
from .workers import workers

__all__ = [
    "Mesh",
    "P",
    "Plan",
    "Profile",
    "ShardedModule",
    "Sharding",
    "ShardingError",
    "hint",
    "lower",
    "plan",
    "rule",
    "shard",
    "testing",
    "workers",
]
