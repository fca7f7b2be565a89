"""What each worker does while it runs a function, call by call: TVM's virtual machine tells it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from spmd.collectives import Backend
from spmd.collectives.cores import CPU
from spmd.collectives.slots import Slots
from spmd.plan.timeline import COLLECTIVE, COMPUTE, FUNCTION, RUNTIME, Span

_RUNTIME = re.compile(r"vm\.builtin\.(alloc|null|check|match|make|read|shape|store|tuple|kill|copy|to_device)")
"""What the machine calls between kernels."""
_GO_ON = 0
"""What tells TVM to run the call as ever."""


class Watch:
    """Watches one run. Each worker writes to its own list, so that they need not wait for each other."""

    def __init__(self, function: str, slots: Slots, backend: Backend) -> None:
        self.function, self.slots, self.backend = function, slots, backend
        self.spans: dict[int, list[Span]] = {}
        self._slots = {slot.name: slot for slot in slots.slots}

    def run(self, rank: int, machine: Any, call: Callable[[], Any]) -> Any:
        """What ``call()`` gives, on a machine that is watched meanwhile."""
        spans: list[Span] = []
        begun: list[tuple[float, bool]] = []
        """The calls that are running: when they began, and whether they made others."""
        device = self.backend.device(rank)
        waits = device.dlpack_device_type() != CPU

        def watch(_function: Any, symbol: str, before: bool, _result: Any, *args: Any) -> int:
            if waits:
                device.sync()
            now = time.perf_counter()
            if before:
                if begun:
                    begun[-1] = (begun[-1][0], True)
                begun.append((now, False))
                return _GO_ON
            start, has_calls = begun.pop()
            if not has_calls:
                spans.append(self._span(symbol, args, start, now - start))
            return _GO_ON

        machine.set_instrument(watch)
        begin = time.perf_counter()
        try:
            result = call()
            if waits:
                device.sync()
        finally:
            end = time.perf_counter()
            machine.set_instrument(None)
        self.spans[rank] = [Span(FUNCTION, self.function, begin, end - begin), *spans]
        return result

    def _span(self, symbol: str, args: tuple[Any, ...], start: float, seconds: float) -> Span:
        slot = self._slots.get(symbol)
        if slot is None:
            return Span(RUNTIME if _RUNTIME.match(symbol) else COMPUTE, symbol, start, seconds)
        if slot.operation == "axis_index":
            return Span(RUNTIME, symbol, start, seconds)
        values = ", ".join(self.slots.sites[int(args[0])].values)
        return Span(COLLECTIVE, f"{slot.operation} {slot.axis} {values}", start, seconds, {"dtype": slot.dtype})
