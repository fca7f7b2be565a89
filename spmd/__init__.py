"""spmd: the SPMD compiler for Apache TVM Relax."""

from importlib.metadata import version

from . import collectives, presets, testing, transform, weights
from .annotate import hint, remat
from .collectives import CollectiveError
from .collectives.pool import WorkerError
from .costs.cost import Cost, Work
from .costs.profile import Link, Profile
from .errors import ShardingError
from .explain import Plan, visualize
from .frontends import from_jax, from_onnx, from_torch
from .pipeline import ShardedModule, lower, plan, price, shard
from .placement.mesh import Mesh
from .placement.sharding import Sharding
from .placement.spec import P, same
from .rules.registry import rule
from .run.library import Library, build, load
from .run.measure import measure
from .run.workers import workers
from .scaling import scaling
from .verify import Proof, verify

__version__ = version("spmd")

__all__ = [
    "CollectiveError",
    "Cost",
    "Library",
    "Link",
    "Mesh",
    "P",
    "Plan",
    "Profile",
    "Proof",
    "ShardedModule",
    "Sharding",
    "ShardingError",
    "Work",
    "WorkerError",
    "__version__",
    "build",
    "collectives",
    "from_jax",
    "from_onnx",
    "from_torch",
    "hint",
    "load",
    "lower",
    "measure",
    "plan",
    "presets",
    "price",
    "remat",
    "rule",
    "same",
    "scaling",
    "shard",
    "testing",
    "transform",
    "verify",
    "visualize",
    "weights",
    "workers",
]
