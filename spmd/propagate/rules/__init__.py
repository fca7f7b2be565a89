"""All rules; importing a family registers its operators."""

from . import create, elementwise, indexing, kv_cache, manipulate, matmul, normalize, reduce
from .call_tir import kernel_rule
from .helpers import static
from .registry import OpCall, rule, rule_of

__all__ = [
    "OpCall",
    "create",
    "elementwise",
    "indexing",
    "kernel_rule",
    "kv_cache",
    "manipulate",
    "matmul",
    "normalize",
    "reduce",
    "rule",
    "rule_of",
    "static",
]
