"""The functions that TVM calls where Python carries collectives: they ask the communicator of the worker that calls.

A bound program calls one for each of its slots. A program that TVM's own passes legalized calls ``spmd.all_reduce(x, ..., out)``, which
is told all of it at each call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import tvm_ffi

from spmd import checks
from spmd.checks import door

from .communicator import Communicator, Endpoint
from .dialect import OPS, SEPARATOR
from .slots import CollectiveError, Site, Slot, Slots

Tensor = Any  # tvm.runtime.Tensor: TVM ships no types


class _Current(threading.local):
    endpoint: Endpoint | None = None


_current = _Current()


@door(communicator=checks.maybe(checks.instance(Endpoint)))
def set_communicator(communicator: Endpoint | None) -> None:
    """Make the calling thread the worker whose end this is."""
    _current.endpoint = communicator


def python_carriers(slots: Slots) -> dict[str, Callable[..., None]]:
    """A function for each slot, by its name, that asks the communicator of the thread it is called in."""
    return {slot.name: _axis_index(slot) if slot.operation == "axis_index" else _bound(slot, slots) for slot in slots.slots}


def _bound(slot: Slot, slots: Slots) -> Callable[..., None]:
    def carry(site: int, *tensors: Tensor) -> None:
        _do(slot, slots.sites[site], tensors)

    return carry


def _axis_index(slot: Slot) -> Callable[..., None]:
    def carry(out: Tensor) -> None:
        _communicator(slot).axis_index(slot.axis, out)

    return carry


def _told(operation: str) -> Callable[..., None]:
    def carry(*args: Any) -> None:
        # the tensors, the axis and what else says how, as many tensors for the results
        count = next(i for i, arg in enumerate(args) if isinstance(arg, str))
        attrs = dict(zip(OPS[operation].attrs, args[count : len(args) - count if count else -1], strict=True))
        dims = tuple(attrs[name] for name in ("dim", "split_dim", "concat_dim") if name in attrs)
        pairs = tuple(map(int, attrs.get("pairs", ())))
        tensors = (*args[:count], *args[len(args) - count :])
        dtypes = tuple(str(x.dtype) for x in args[:count])
        slot = Slot(operation, attrs["axis"], attrs["workers"], "+".join(dtypes), attrs.get("kind", ""), dims, pairs, attrs.get("root", -1))
        if operation == "axis_index":
            return _communicator(slot).axis_index(slot.axis, args[-1])
        values = attrs["value"].split(SEPARATOR) if count > 1 else [attrs["value"]]
        _do(slot, Site(0, tuple(values), dtypes), tensors)

    return carry


def _do(slot: Slot, site: Site, tensors: Sequence[Tensor]) -> None:
    communicator, count = _communicator(slot), len(tensors) // 2
    communicator.calls.append((slot, site, [x.shape for x in tensors[:count]]))
    if count == 1:
        getattr(communicator, slot.operation)(tensors[0], slot.axis, *slot.own, site.values[0], tensors[1])
    else:
        communicator.bundle(slot.operation, tensors[:count], slot.axis, slot.own, site.values, tensors[count:])


def _communicator(slot: Slot) -> Communicator:
    name, endpoint = f"spmd.{slot.operation}", _current.endpoint
    if endpoint is None:
        way_out = 'A program with R.spmd operators runs in workers: with spmd.workers(sharded) as w: w["main"](...).'
        raise CollectiveError(f"{name}: this thread is no worker. {way_out}")
    mesh = endpoint.mesh
    if not all(map(mesh.has, slot.axis.split("+"))) or mesh.axis_size(slot.axis) != slot.workers:
        what = f"{name} over mesh axis {slot.axis!r} of {slot.workers} workers"
        raise CollectiveError(f"{what}: these workers are {mesh}. Start workers with the program's mesh.")
    if not isinstance(endpoint, Communicator):
        raise CollectiveError(f"{name}: these workers carry what was bound before it was compiled. Compile the program with spmd.build().")
    return endpoint


for _name in OPS:
    tvm_ffi.register_global_func(f"spmd.{_name}", _told(_name), override=True)
