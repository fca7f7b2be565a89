"""Convolutions over a split spatial dimension: each worker fetches the rows under its windows, and needs no padding there."""

from __future__ import annotations

from typing import Any

import tvm

from spmd.rules.attributes import with_attributes
from spmd.rules.windows import Window

from .context import FormContext, form
from .halo import fetch, own_rows


def window_of(f: FormContext) -> Window:
    """The window of the split dimension."""
    window = f.rule.forms[f.factor].exchanges
    assert isinstance(window, Window)
    return window


def unpadded(f: FormContext, window: Window, **changed: Any) -> Any:
    """The attributes of the call without padding in the split dimension."""
    padding = [int(p) for p in f.call.attrs.padding]
    padding[window.place] = padding[window.place + len(padding) // 2] = 0
    return with_attributes(f.attrs, padding=padding, **changed)


def rows_under(f: FormContext, window: Window, fill: float) -> Any:
    """The rows of the first input under this worker's windows, `fill` where the window reaches into the padding."""
    halo, padded = window.halo(f.splits, f.mesh), f.splits[window.into].is_padded(f.mesh)
    return fetch(f, f.args[0], f.dim_of(0, window.into), halo, fill, padded=padded)


@form("convolution")
def convolution(f: FormContext) -> Any:
    """The same convolution over the fetched rows."""
    window = window_of(f)
    return f.emit(tvm.ir.Call(f.call.op, [rows_under(f, window, 0), f.args[1]], unpadded(f, window)))


@form("transposed_convolution")
def transposed_convolution(f: FormContext) -> Any:
    """All that the fetched rows write to, of which each worker keeps its own part."""
    window = window_of(f)
    extra = [0 if i == window.place else int(p) for i, p in enumerate(f.call.attrs.output_padding)]
    attrs = unpadded(f, window, output_padding=extra)
    made = f.emit(tvm.ir.Call(f.call.op, [rows_under(f, window, 0), f.args[1]], attrs))
    count, halo = window.windows(f.splits, f.mesh), window.halo(f.splits, f.mesh)
    starts = [w * count + window.before - start * window.stride for w, start in enumerate(halo.starts)]
    return own_rows(f, made, f.dim_of(0, window.out, output=True), starts, count)
