"""Ready-made plans: plain functions that read a module and return specs for `shard`. Change the dict as you like; merge two with ``|``.

Of a function that gives new values for all of its weights, such as a training step, all place these as the weights are (`state`).
"""

from .data import data_parallel, fsdp
from .state import state
from .tensor import megatron, sequence_parallel

__all__ = ["data_parallel", "fsdp", "megatron", "sequence_parallel", "state"]
