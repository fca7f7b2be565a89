"""spmd: the SPMD compiler for Apache TVM Relax."""

from . import plans, testing
from .annotate import hint
from .errors import ShardingError
from .measure import measure
from .mesh import Mesh
from .pipeline import ShardedModule, lower, plan, shard
from .plan import Plan
from .profile import Link, Profile
from .propagate import rule
from .sharding import Sharding
from .spec import P
from .workers import workers

__all__ = [
    "Link",
    "Mesh",
    "P",
    "Plan",
    "Profile",
    "ShardedModule",
    "Sharding",
    "ShardingError",
    "hint",
    "lower",
    "measure",
    "plan",
    "plans",
    "rule",
    "shard",
    "testing",
    "workers",
]
