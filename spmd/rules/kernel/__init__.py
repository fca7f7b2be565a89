"""What a PrimFunc says about itself: which buffer dimensions and loops go together, and where it can be cut.

Every loop variable and buffer dimension is a product of *factors*, major first. ``out[n, k] = w[n, k // 8] * s[n, k // 32]``
gives ``k = (a b c)`` with c = 8 and b = 4, so that w is ``n (a b)`` and s is ``n a``.
"""

from .call import KERNEL_CALLS, CallKernel, aliases_of, kernel_key, read_call
from .group_gemm import GroupGemm, is_group_gemm, make_group_gemm, read_group_gemm
from .model import Block, Kernel, Staged, Unreadable
from .reader import read_kernel
from .stages import levels

__all__ = [
    "KERNEL_CALLS",
    "Block",
    "CallKernel",
    "GroupGemm",
    "Kernel",
    "Staged",
    "Unreadable",
    "aliases_of",
    "is_group_gemm",
    "kernel_key",
    "levels",
    "make_group_gemm",
    "read_call",
    "read_group_gemm",
    "read_kernel",
]
