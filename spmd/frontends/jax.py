"""Functions of JAX, through StableHLO and TVM's importer of it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from spmd.checks import package
from spmd.errors import ShardingError

from .imported import ImportedModel


def from_jax(function: Callable[..., Any], *args: Any) -> ImportedModel:
    """A function of JAX as a module for `shard`, traced with `args`, arrays or `jax.ShapeDtypeStruct`; every argument is an input.

    TVM's importer knows few operators, one result, and not every JAX.
    Raises `ShardingError` where it fails, with its error.
    """
    jax = package("jax", "from_jax", "JAX is not installed", "jax")
    from tvm.relax.frontend.stablehlo import from_stablehlo

    if not callable(function):
        raise ShardingError("from_jax", f"it takes a function, and got a {type(function).__name__}", "Write spmd.from_jax(f, x).")
    way_out = "Export it from JAX to a format of another front door, such as ONNX."
    try:
        lowered = jax.jit(function).lower(*args)
    except Exception as error:
        what = f"JAX cannot trace it: {type(error).__name__}: {error}"
        raise ShardingError("from_jax", what, "Give example arguments, as for jax.jit(f).lower(...).") from error
    results = len(jax.tree.leaves(lowered.out_info))
    if results != 1:
        raise ShardingError("from_jax", f"it has {results} results, and TVM's importer takes functions of one", way_out)
    try:
        mod = from_stablehlo(lowered.compiler_ir("stablehlo"))
    except Exception as error:
        what = f"TVM's importer of StableHLO fails with JAX {version('jax')}: {type(error).__name__}: {error}"
        raise ShardingError("from_jax", what, way_out) from error
    main = mod["main"]
    mod.update_func(mod.get_global_var("main"), main.with_attr("num_input", len(main.params)))
    return ImportedModel(mod, {})
