"""Proving a function piece by piece, equal pieces once.

Both functions are cut between their layers. Each pair of pieces is a pair of programs of its own: what it takes from earlier pieces is
arbitrary, but for how workers hold it, and how they hold what it gives is found by its numbers. A pair of equal structure is not run again.
Where to cut is guessed by names, and nothing rests on it: where pieces do not fit together, nothing is concluded of the function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, tirx

from spmd.placement.mesh import Mesh

from .opaque import ATTENTION, FUSED
from .repeats import Side, cuts, is_float_tensor, is_plain
from .signature import Place, Segment, Signature, Split, whole

PIECE = "piece"
"""The name of a pair's functions."""


@dataclass
class Relations:
    """What was found of a pair: of which result of the module each result of the workers is a placement, and of which first result each
    result of the module is a copy.
    """

    results: list[tuple[int, Place]] = field(default_factory=list[tuple[int, Place]])
    copies: list[int] = field(default_factory=list[int])


Shown = Callable[[tvm.IRModule, tvm.IRModule, Signature], Relations]
"""Proves a pair, or raises `NotInPieces`."""


class NotInPieces(Exception):
    """A function of which nothing is concluded by its pieces."""


@dataclass(frozen=True)
class _Pair:
    """Functions for the module and its workers, how these hold their parameters, and the values that the first one gives."""

    functions: tuple[Any, Any]
    signature: Signature
    given: tuple[Any, ...]


@dataclass
class Pieces:
    """Shows functions of two modules by pieces."""

    mod: tvm.IRModule
    local: tvm.IRModule
    mesh: Mesh
    shown: Shown
    _known: dict[Any, list[tuple[tuple[Any, Any], Relations]]] = field(default_factory=dict[Any, Any])
    _sized: list[Any] = field(default_factory=list[Any])
    """Parameters of the workers that have sizes by names."""
    _first: dict[Any, Any] = field(default_factory=dict[Any, Any])
    """Value of the module -> the first one that it is a copy of."""

    def __post_init__(self) -> None:
        plain = relax.transform.ToNonDataflow()
        self.mod, self.local = plain(self.mod), plain(self.local)

    def show(self, name: str, signature: Signature) -> None:
        """Show one function, or raise `NotInPieces`."""
        funcs = self.mod[name], self.local[name]
        counts = {len(funcs[0].params), len(funcs[1].params), len(signature.params)}
        if len(counts) > 1 or signature.constants or signature.sizes or not all(map(is_plain, funcs)):
            raise NotInPieces
        one, many = map(Side, funcs)
        stops = [*cuts(one, many), (len(one.bindings), len(many.bindings))]
        starts = [(0, 0), *stops[:-1]]
        if len(stops) < 3:
            raise NotInPieces
        own = [(range(a, c), range(b, d)) for (a, b), (c, d) in zip(starts, stops, strict=True)]
        _check_caches(one, [a for a, _ in own])
        _check_caches(many, [b for _, b in own])
        held = {p: (q, _plain(place, q)) for p, q, place in zip(funcs[1].params, funcs[0].params, signature.params, strict=True)}
        self._sized = [p for p in funcs[1].params if _sizes(p)]
        last = {len(own) - 1}
        needed = {v for i, (_, b) in enumerate(own) for v in many.needs(b, many.func.body.body if i in last else None)[1]}
        for i, (a, b) in enumerate(own):
            crossing = None if i in last else [many.bindings[at].var for at in b if many.bindings[at].var in needed]
            pair = self._pair((one, many), (a, b), held, crossing, signature.outputs)
            found = self._shown(pair)
            for var, i_first in zip(pair.given, found.copies, strict=False):
                first = pair.given[i_first]
                self._first.setdefault(var, first if tvm_ffi.structural_equal(first.ty, var.ty) else var)
            for var, (index, place) in zip(crossing or (), found.results, strict=True):
                held[var] = self._first[pair.given[index]], _at_full_size(place, pair.given[index].ty, var.ty, self.mesh)

    def _pair(self, sides: tuple[Side, Side], own: tuple[range, range], held: Any, crossing: list[Any] | None, outputs: Any) -> _Pair:
        """The programs of a pair of pieces; `crossing` are the values that later pieces of the workers take, None in the last pair."""
        one, many = sides
        results: list[Any] = [side.func.body.body if crossing is None else None for side in sides]
        many_again, taken = many.needs(own[1], results[1])
        if any(v not in held for v in taken):
            raise NotInPieces
        taken = list(dict.fromkeys((*taken, *self._sized)))  # what says the sizes that others have
        one_again, params = one.needs(own[0], results[0])
        copies = [relax.VarBinding(v, self._first[v]) for v in params if not self._first.get(v, v).same_as(v)]
        params = list(dict.fromkeys((*(self._first.get(v, v) for v in params), *(held[v][0] for v in taken))))
        at = {v: i for i, v in enumerate(params)}
        given = tuple(v for v in (*params, *(one.bindings[i].var for i in own[0])) if is_float_tensor(v))
        if crossing is not None:
            results = [relax.Tuple(given), relax.Tuple(crossing)]
        layers: dict[int, int] = {}
        first = _function(one, (*one_again, *own[0]), params, results[0], layers, copies)
        second = _function(many, (*many_again, *own[1]), taken, results[1], layers)
        places = tuple(held[v][1] for v in taken)
        sources = tuple(at[held[v][0]] for v in taken)
        return _Pair(
            (first, second), Signature(places, outputs if crossing is None else None, sources=sources, is_open=crossing is not None), given
        )

    def _shown(self, pair: _Pair) -> Relations:
        named = tuple(v.name for func in pair.functions for v in relax.analysis.defined_symbolic_vars(func))
        key = (*map(tvm_ffi.structural_hash, pair.functions), pair.signature, named)
        alike = self._known.setdefault(key, [])
        for functions, found in alike:
            if all(map(tvm_ffi.structural_equal, functions, pair.functions)):
                return found
        one, many = (_module(func, mod) for func, mod in zip(pair.functions, (self.mod, self.local), strict=True))
        found = self.shown(one, many, pair.signature)
        alike.append((pair.functions, found))
        return found


def _function(side: Side, places: Sequence[int], params: list[Any], result: Any, layers: dict[int, int], copies: Sequence[Any] = ()) -> Any:
    bindings = [*copies, *(relax.VarBinding(b.var, _common(b.value, layers)) for b in map(side.bindings.__getitem__, places))]
    attrs = tvm.ir.make_node("ir.DictAttrs", global_symbol=PIECE)
    func = relax.Function(params, relax.SeqExpr([relax.BindingBlock(bindings)], result), result.ty, side.func.is_pure, attrs)
    if relax.analysis.free_symbolic_vars(func):
        raise NotInPieces
    return func


def _module(func: Any, mod: tvm.IRModule) -> tvm.IRModule:
    kernels: list[Any] = []
    tvm_ffi.structural_walk(func.body, ((tvm.ir.GlobalVar,), kernels.append))
    own = relax.utils.copy_with_new_vars(func)  # passes fill in types of what they are given, and the original is compared with others
    return relax.transform.Normalize()(tvm.IRModule({tvm.ir.GlobalVar(PIECE): own, **{var: mod[var] for var in kernels}}))


def _common(e: Any, layers: dict[int, int]) -> Any:
    """A call without what tells layers apart: the text for errors in a collective, and the number of the layer in a cache."""
    if _layer(e) is not None:
        cache, layer, *rest = e.args[1].fields
        number = tirx.IntImm(layer.ty.dtype, layers.setdefault(int(layer), len(layers)))
        return relax.Call(e.op, [e.args[0], relax.Tuple([cache, number, *rest])], e.attrs, e.ty_args)
    if isinstance(e, tvm.ir.Call) and e.op.name.startswith("relax.spmd."):
        attrs: dict[str, Any] = {key: e.attrs[key] for key in e.attrs.keys()}  # noqa: SIM118
        return relax.Call(e.op, e.args, tvm.ir.make_node("ir.DictAttrs", **{**attrs, "value": ""}), e.ty_args)
    return e


def _layer(e: Any) -> int | None:
    """The layer of a cache that a call is about."""
    if not isinstance(e, tvm.ir.Call) or e.op.name != "relax.call_dps_packed" or str(getattr(e.args[0], "global_symbol", "")) != FUSED:
        return None
    return int(e.args[1].fields[1])


def _check_caches(side: Side, own: Sequence[range]) -> None:
    """What a layer of a cache holds at the end is what one piece puts there, by the one function of which numbers of layers are known."""
    packed = [str(getattr(e.args[0], "global_symbol", "")) for b in side.bindings if isinstance(e := b.value, tvm.ir.Call) and e.args]
    if any(name.startswith(ATTENTION) and name != FUSED for name in packed):
        raise NotInPieces
    used = [{layer for at in piece if (layer := _layer(side.bindings[at].value)) is not None} for piece in own]
    if sum(map(len, used)) > len(set().union(*used)):
        raise NotInPieces


def _sizes(param: Any) -> bool:
    """Whether a parameter has a size by a name."""
    shape = getattr(param.ty, "shape", param.ty)
    return any(isinstance(size, tvm.ir.Var) for size in getattr(shape, "values", None) or ())


def _plain(place: Any, var: Any) -> Any:
    """A placement in our own form where it has one, so that equal ones are equal."""
    if place is None or any(split is not None and (split.symbolic or split.repeated or split.uneven) for split in place.dims):
        return place if place is not None or not isinstance(var.ty, relax.TensorType) else whole(var.ty.ndim)
    splits = [split and Split(tuple(split.axes), tuple(Segment(int(s.size), int(s.unit)) for s in split.segments)) for split in place.dims]
    return Place(tuple(splits), tuple(place.partial))


def _at_full_size(place: Place, ty: Any, held: Any, mesh: Mesh) -> Place:
    """The placement that was found at other sizes, at those of the functions: evenly split, and so without padding."""
    splits: list[Split | None] = []
    for split, n, m in zip(place.dims, ty.shape.values, held.shape.values, strict=True):
        if split is None:
            if isinstance(n, tirx.IntImm) != isinstance(m, tirx.IntImm) or (isinstance(n, tirx.IntImm) and int(n) != int(m)):
                raise NotInPieces
            splits.append(None)
        elif not isinstance(n, tirx.IntImm) or not isinstance(m, tirx.IntImm) or int(n) != int(m) * mesh.axis_size(*split.axes):
            raise NotInPieces
        else:
            splits.append(Split(split.axes, (Segment(int(n)),)))
    return Place(tuple(splits), place.partial)
