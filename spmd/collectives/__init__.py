"""The dialect of collectives, ``R.spmd.*``, and what carries them between workers."""

from .backend import Backend, make_backend, register_backend
from .bind import bind
from .carry import set_communicator
from .communicator import Communicator, Endpoint
from .dialect import OPS, SEPARATOR, all_gather, all_reduce, all_to_all, axis_index, broadcast, permute, reduce_scatter
from .slots import CollectiveError, Record, Site, Slot, Slots

__all__ = [
    "OPS",
    "SEPARATOR",
    "Backend",
    "CollectiveError",
    "Communicator",
    "Endpoint",
    "Record",
    "Site",
    "Slot",
    "Slots",
    "all_gather",
    "all_reduce",
    "all_to_all",
    "axis_index",
    "bind",
    "broadcast",
    "make_backend",
    "permute",
    "reduce_scatter",
    "register_backend",
    "set_communicator",
]
