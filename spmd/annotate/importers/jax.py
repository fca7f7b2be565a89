"""Trees of JAX's ``PartitionSpec``, read by their looks: JAX is not imported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from spmd.errors import ShardingError
from spmd.placement.spec import OPEN, P


def from_jax(tree: Any) -> dict[str, P]:
    """``{"layers": [{"wq": PartitionSpec(None, "tp")}]}`` as ``{"layers.0.wq": P(None, "tp", others=None)}``.

    A tree is nested mappings and sequences; a leaf is a ``PartitionSpec``, something with one (``NamedSharding``), or None for what is
    left to the planner. As in JAX, dimensions that a spec does not reach are whole; ``PartitionSpec.UNCONSTRAINED`` is ``"?"``.
    """
    specs: dict[str, P] = {}
    for name, leaf in _leaves("", tree):
        if not name:
            raise ShardingError("from_jax", f"{leaf!r} has no name", "Pass a tree, such as {'w': spec}.")
        if name in specs:
            raise ShardingError("from_jax", f"two leaves have the name {name!r}", "A key may hold no '.' that makes it another's.")
        specs[name] = _spec(name, leaf)
    return specs


def _leaves(path: str, tree: Any) -> Iterable[tuple[str, Any]]:
    if tree is None:
        return
    spec = tree if isinstance(tree, type) else getattr(tree, "spec", tree)
    if _is_partition_spec(spec):
        yield path, spec
    elif isinstance(tree, Mapping):
        for key, part in cast("Mapping[Any, Any]", tree).items():
            yield from _leaves(f"{path}.{key}" if path else str(key), part)
    elif isinstance(tree, Sequence) and not isinstance(tree, str):
        for i, part in enumerate(cast("Sequence[Any]", tree)):
            yield from _leaves(f"{path}.{i}" if path else str(i), part)
    else:
        raise ShardingError("from_jax", f"at {path!r} stands {tree!r}", "A leaf is a PartitionSpec, a NamedSharding or None.")


def _is_partition_spec(x: Any) -> bool:
    """JAX 0.4 makes it a tuple, later versions do not, and JAX 0.10 names it P; what is left open is an attribute of all of them."""
    return any(t.__name__ in ("PartitionSpec", "ParsedPartitionSpec") or "UNCONSTRAINED" in vars(t) for t in type(x).__mro__)


def _spec(name: str, spec: Any) -> P:
    for kind in ("unreduced", "reduced"):
        if getattr(spec, kind, None):
            raise ShardingError(f"from_jax: {name!r}", f"{spec!r} is {kind}", "Partial sums are the planner's.")
    return P(*(_entry(name, spec, e) for e in spec), others=None)


def _entry(name: str, spec: Any, entry: Any) -> str | tuple[str | int, ...] | None:
    if entry is None or isinstance(entry, str):
        return entry
    if isinstance(entry, tuple | list) and all(isinstance(a, str) for a in cast("Sequence[Any]", entry)):
        return tuple(cast("Sequence[str]", entry))
    if "unconstrained" in f"{type(entry).__name__} {entry!r}".lower():
        return OPEN
    raise ShardingError(
        f"from_jax: {name!r}", f"{spec!r} has the entry {entry!r}", "Write None, an axis, a tuple of axes or UNCONSTRAINED."
    )
