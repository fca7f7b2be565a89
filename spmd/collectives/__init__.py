"""The dialect of collectives, ``R.spmd.*``, and what carries them between workers."""

from .backend import SEPARATOR, Backend, CollectiveError, Communicator, Record, make_backend, register_backend, set_communicator
from .dialect import OPS, all_gather, all_reduce, all_to_all, axis_index, broadcast, permute, reduce_scatter

__all__ = [
    "OPS",
    "SEPARATOR",
    "Backend",
    "CollectiveError",
    "Communicator",
    "Record",
    "all_gather",
    "all_reduce",
    "all_to_all",
    "axis_index",
    "broadcast",
    "make_backend",
    "permute",
    "reduce_scatter",
    "register_backend",
    "set_communicator",
]
