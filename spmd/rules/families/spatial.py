"""Layouts (``"NCHW"``, ``"OHWI"``, ``"NCHW4c"``) and windows that slide over spatial dimensions, as rules say them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from spmd.rules.model import Form, Size
from spmd.rules.windows import Window


def axes_of(layout: str) -> list[str]:
    """One letter a dimension; a lower-case one is a block of the upper-case one."""
    return [letter for _, letter in re.findall(r"(\d*)([A-Za-z])", str(layout))]


def spatial_axes(layout: str) -> list[str]:
    """The spatial ones among D, H, W, in the order in which attributes list them."""
    return [a for a in "DHW" if a in axes_of(layout)]


def is_blocked(layout: str) -> bool:
    """Whether a dimension other than channels is cut into blocks, which no rule here takes."""
    return any(a in "dhwn" for a in axes_of(layout))


def spell(layout: str, names: Mapping[str, str]) -> str:
    """The spec of a tensor: the factors of each letter, in the order of the layout."""
    return " ".join(names[a] for a in axes_of(layout))


def size_of(layout: str, shape: Sequence[Size], axis: str) -> Size:
    """The size of the dimension called `axis`."""
    return shape[axes_of(layout).index(axis)]


def factors_of(text: str) -> list[str]:
    """The factor names of a spec."""
    return re.findall(r"[a-z]\w*", text)


@dataclass
class Slide:
    """How the spatial dimensions of a call read in its rule; `add` says one at a time, `details` what `bind` takes."""

    into: dict[str, str] = field(default_factory=dict[str, str])
    """Letter -> factors of that dimension of the tensor that is read."""
    out: dict[str, str] = field(default_factory=dict[str, str])
    whole: list[str] = field(default_factory=list[str])
    sizes: dict[str, Size] = field(default_factory=dict[str, Size])
    slid: list[tuple[str, dict[str, Any]]] = field(default_factory=list[tuple[str, dict[str, Any]]])
    """Letters of dimensions that take a halo, with the fields of their `Window`."""

    def same(self, axis: str) -> None:
        """Row by row."""
        self.into[axis] = self.out[axis] = f"{axis.lower()}o"

    def tiles(self, axis: str, step: int, merged: Literal["into", "out"] = "into") -> None:
        """Each row of the one side stands for `step` rows of the other one, and for no more."""
        row, inner = f"{axis.lower()}o", f"{axis.lower()}s"
        self.into[axis] = self.out[axis] = row
        (self.into if merged == "into" else self.out)[axis] = f"({row} {inner})"
        self.sizes[inner] = step
        self.whole.append(inner)

    def apart(self, axis: str) -> None:
        """Rows in and rows out have nothing to do with one another but that both are whole."""
        self.into[axis], self.out[axis] = f"{axis.lower()}i", f"{axis.lower()}o"
        self.whole += [self.into[axis], self.out[axis]]

    def window(
        self, axis: str, rows: Size, windows: Size, *, kernel: int, stride: int, dilation: int, before: int, after: int, **more: Any
    ):
        """A window slides over `rows` rows. `more` are other fields of `Window`."""
        transposed = bool(more.get("transposed"))
        extent = (kernel - 1) * dilation + 1
        if kernel == stride == 1 and before == after == 0 and rows == windows:
            self.same(axis)
        elif not rows or not windows:
            self.apart(axis)
        elif extent <= stride and before == 0 and (rows * stride == windows if transposed else rows == windows * stride):
            self.tiles(axis, stride, "out" if transposed else "into")
        else:
            self.into[axis], self.out[axis] = f"{axis.lower()}i", f"{axis.lower()}o"
            self.slid.append((axis, {"size": rows, "kernel": kernel, "stride": stride, "dilation": dilation, "before": before, **more}))

    def details(self, form: str, spec: str) -> dict[str, Any]:
        """The fields of the rule, where the tensor that is read is `spec` and `form` runs a slid dimension; with no form it is whole."""
        forms: dict[str, Form] = {}
        # A block is part of the layout's name.
        whole = [*self.whole, *(f for f in ("cb", "cib") if f in factors_of(spec))]
        for axis, fields in self.slid:
            into, out = self.into[axis], self.out[axis]
            if not form:
                whole += [into, out]
                continue
            rest = " ".join(f for f in factors_of(spec) if f != into)
            window = Window(into, out, rest, **fields)
            forms[into] = Form(form, window, ordered=True, together=(out,))
            forms[out] = Form(form, window, ordered=True, together=(into,))
        uncounted = frozenset(self.into[a] for a in self.into if self.into[a].endswith("i"))
        return {"forms": forms, "whole": frozenset(whole), "uncounted": uncounted, "sizes": self.sizes}


def numbers(values: Iterable[Any]) -> list[int]:
    """A list of attributes as integers."""
    return [int(v) for v in values]
