"""What collectives give, in NumPy."""

import ml_dtypes
import numpy as np

from spmd.placement.mesh import Mesh

DTYPES = [
    *("float32", "float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"),
    *("bool", "int8", "uint8", "int16", "int32", "int64", "uint64"),
]
KINDS = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}


def numpy_dtype(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, name))


def data(mesh: Mesh, shape: tuple[int, ...], dtype: str) -> list[np.ndarray]:
    """One array a worker, of values that every dtype has."""
    rng = np.random.default_rng(0)
    low, high = (0, 2) if dtype == "bool" else (1, 4) if dtype == "float8_e8m0fnu" else (0, 7)
    return [rng.integers(low, high, shape).astype(np.float32).astype(numpy_dtype(dtype)) for _ in range(mesh.size)]


def folded(kind: str, arrays: list[np.ndarray]) -> np.ndarray:
    """The reduction in rank order; narrow floats in float32, rounded once."""
    dtype = arrays[0].dtype
    if dtype.itemsize <= 2 and dtype.kind not in "iub":
        arrays = [a.astype(np.float32) for a in arrays]
    total = arrays[0]
    for array in arrays[1:]:
        total = KINDS[kind](total, array)
    return total.astype(dtype)


def expect(op: str, xs: list[np.ndarray], mine: int, own: tuple) -> np.ndarray:
    """What the worker at position `mine` of a group gets from `xs`."""
    n = len(xs)
    match op:
        case "all_reduce":
            return folded(own[0], xs)
        case "all_gather":
            return np.concatenate(xs, own[0])
        case "reduce_scatter":
            return np.split(folded(own[0], xs), n, own[1])[mine]
        case "all_to_all":
            return np.concatenate([np.split(x, n, own[0])[mine] for x in xs], own[1])
        case "permute":
            source = {t: s for s, t in zip(own[0][0::2], own[0][1::2], strict=True)}
            return xs[source[mine]] if mine in source else np.zeros_like(xs[0])
        case _:
            return xs[own[0]]
