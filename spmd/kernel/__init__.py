"""What a PrimFunc says about itself: which buffer dimensions and loops go together, and where it can be cut.

Every loop variable and buffer dimension is a product of *factors*, major first. ``out[n, k] = w[n, k // 8] * s[n, k // 32]``
gives ``k = (a b c)`` with c = 8 and b = 4, so that w is ``n (a b)`` and s is ``n a``.
"""

from .call import KERNEL_CALLS, CallKernel, aliases_of, kernel_key, read_call
from .model import Block, Kernel, Staged, Unreadable
from .reader import read_kernel
from .stages import levels

__all__ = [
    "KERNEL_CALLS",
    "Block",
    "CallKernel",
    "Kernel",
    "Staged",
    "Unreadable",
    "aliases_of",
    "kernel_key",
    "levels",
    "read_call",
    "read_kernel",
]
