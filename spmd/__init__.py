"""spmd: the SPMD compiler for Apache TVM Relax."""

from . import collectives, plans, testing, transform
from .annotate import hint
from .errors import ShardingError
from .measure import measure
from .mesh import Mesh
from .pipeline import ShardedModule, lower, plan, shard
from .plan import Plan
from .profile import Link, Profile
from .propagate import Cost, Work, rule
from .sharding import Sharding
from .spec import P
from .workers import workers

__all__ = [
    "Cost",
    "Link",
    "Mesh",
    "P",
    "Plan",
    "Profile",
    "ShardedModule",
    "Sharding",
    "ShardingError",
    "Work",
    "collectives",
    "hint",
    "lower",
    "measure",
    "plan",
    "plans",
    "rule",
    "shard",
    "testing",
    "transform",
    "workers",
]
