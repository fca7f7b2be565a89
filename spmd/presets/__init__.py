"""Ready-made plans: plain functions that read a module and return specs for `shard`. Change the dict as you like; merge two with ``|``."""

from .data import data_parallel, fsdp
from .tensor import megatron, sequence_parallel

__all__ = ["data_parallel", "fsdp", "megatron", "sequence_parallel"]
