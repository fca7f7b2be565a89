"""Loops for each target: TVM's dlight on GPUs, rules of our own on CPUs; `build` compiles a whole model."""

from .build import build, pipeline
from .producers import FuseProducers
from .scheduling import CPUSchedules, GPUSchedules
from .targets import available_kinds, resolve
from .widen import WidenHalf

__all__ = ["CPUSchedules", "FuseProducers", "GPUSchedules", "WidenHalf", "available_kinds", "build", "pipeline", "resolve"]
