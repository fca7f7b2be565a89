"""Loops for each target: TVM's dlight on GPUs, rules of our own on CPUs; `build` compiles a whole model."""

from spmd.schedules.build import build, pipeline
from spmd.schedules.producers import FuseProducers
from spmd.schedules.scheduling import CPUSchedules, GPUSchedules
from spmd.schedules.targets import available_kinds, resolve
from spmd.schedules.widen import WidenHalf

__all__ = ["CPUSchedules", "FuseProducers", "GPUSchedules", "WidenHalf", "available_kinds", "build", "pipeline", "resolve"]
