"""Weights in files: read by byte ranges, cut for each worker, and kept cut in folders."""

from .checkpoint import source
from .cutting import Written, write
from .folder import Folder
from .tensors import Source, Tensor

__all__ = ["Folder", "Source", "Tensor", "Written", "source", "write"]
