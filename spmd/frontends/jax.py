"""Functions of JAX, from the operators that JAX traces."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from tvm import relax

from spmd.checks import package
from spmd.errors import ShardingError

from .imported import ImportedModel
from .jax_operators import KNOWN, Reader, Unknown, check


def from_jax(function: Callable[..., Any], *args: Any) -> ImportedModel:
    """A function of JAX as a module for `shard`, traced with `args`, arrays or `jax.ShapeDtypeStruct`; every argument is an input.

    Arguments that are trees give an input a leaf, by its path: ``params.layers.0.w``. So do results, in the order of `jax.tree.leaves`.
    Raises `ShardingError` for an operator that is not known, with the names of those that are.
    """
    jax = package("jax", "from_jax", "JAX is not installed", "jax")
    if not callable(function):
        raise ShardingError("from_jax", f"it takes a function, and got a {type(function).__name__}", "Write spmd.from_jax(f, x).")
    try:
        traced = jax.make_jaxpr(function)(*args)
    except Exception as error:
        what = f"JAX cannot trace it: {type(error).__name__}: {error}"
        raise ShardingError("from_jax", what, "Give example arguments, as for jax.make_jaxpr(f)(...).") from error
    builder = relax.BlockBuilder()
    reader = Reader(builder)
    inputs = [_input(name, var.aval) for name, var in zip(_names(jax, function, args), traced.jaxpr.invars, strict=True)]
    try:
        check(traced.jaxpr)
        with builder.function("main", inputs):
            with builder.dataflow():
                ends = [builder.emit_output(value) for value in reader.closed(traced, inputs)]
            builder.emit_func_output(ends[0] if len(ends) == 1 else relax.Tuple(ends))
    except Unknown as error:
        way_out = (
            f"These operators of JAX are known: {', '.join(KNOWN)}. Export what has others to a format of another front door, such as ONNX."
        )
        raise ShardingError("from_jax", f"{error} (JAX {version('jax')})", way_out) from error
    mod = builder.get()
    mod.update_func(mod.get_global_var("main"), mod["main"].with_attr("num_input", len(inputs)))
    return ImportedModel(mod, {})


def _input(name: str, aval: Any) -> relax.Var:
    try:
        return relax.Var(name, relax.TensorType(aval.shape, str(aval.dtype)))
    except ValueError as error:
        what = f"its argument {name!r} is of type {aval.dtype}, which TVM does not have"
        raise ShardingError("from_jax", what, "Give arrays of numbers; draw random ones before.") from error


def _names(jax: Any, function: Callable[..., Any], args: tuple[Any, ...]) -> list[str]:
    """The path of each leaf of the arguments: the name of the parameter, then keys and numbers."""
    try:
        bound = list(inspect.signature(function).bind(*args).arguments)
    except (TypeError, ValueError):
        bound = []
    first = bound if len(bound) == len(args) else [f"arg{i}" for i in range(len(args))]
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(args)[0]]
    return [".".join([first[path[0].idx], *map(_key, path[1:])]) for path in paths]


def _key(key: Any) -> str:
    for what in ("key", "idx", "name"):
        if hasattr(key, what):
            return str(getattr(key, what))
    return str(key)
