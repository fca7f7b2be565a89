"""Models of PyTorch, through torch.export and TVM's importer. Weights keep their names, and values are named after their modules."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, cast

import tvm
from tvm import relax

from spmd.checks import package
from spmd.errors import ShardingError

from . import torch_complex, torch_experts, torch_mended, torch_types
from .imported import ImportedModel
from .naming import NamingBuilder
from .torch_ops import CONVERTED, kept_whole

_LOG = logging.getLogger("spmd")
_RANDOM = ("bernoulli", "dropout", "exponential", "multinomial", "native_dropout", "normal", "poisson", "rand", "uniform")
"""What draws random numbers, of which TVM's importer makes constants, or nothing."""
_DROPOUT = ("dropout", "native_dropout")
_EXPORT = "Export it yourself with torch.export.export(), and pass the ExportedProgram."


def from_torch(
    model: Any, example_inputs: Sequence[Any] | None = None, *, kwargs: Mapping[str, Any] | None = None, dynamic_shapes: Any = None
) -> ImportedModel:
    """A PyTorch model as a module for `shard`: an `nn.Module` with example inputs, or what `torch.export.export` made of it.

    `example_inputs`, `kwargs` and `dynamic_shapes` are as of `torch.export.export`; a dimension that is a ``torch.export.Dim("batch")``
    has that name in `sizes` and `divisible`. What is no tensor, such as a flag, is fixed as it is given here, and no input of the module.
    A model of transformers gives no cache, which cannot be exported, and a warning says so. The weights have the names of
    `model.state_dict()`, values inside those of their modules: ``layers_0_mlp_up_linear``. Buffers and constants are weights too.
    Raises `ShardingError` for operators that TVM's importer does not know, for state that the model writes, and for dropout in training.
    """
    program = _exported(model, example_inputs, kwargs, dynamic_shapes)
    program = _decomposed(program)
    _check(program)
    are_tensors = _without_constants(program)
    mod, names = _translated(program)
    return ImportedModel(_with_sizes_named(mod, dynamic_shapes, are_tensors), *_weights(program, names))


def _exported(model: Any, inputs: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, dynamic_shapes: Any) -> Any:
    torch = package("torch", "from_torch", "PyTorch is not installed", "torch")
    if isinstance(model, torch.export.ExportedProgram):
        return model
    if not isinstance(model, torch.nn.Module):
        what = f"it takes an nn.Module or an ExportedProgram, and got a {type(model).__name__}"
        raise ShardingError("from_torch", what, "Write spmd.from_torch(model, (x,)).")
    if inputs is None and kwargs is None:
        raise ShardingError("from_torch", "a model needs example inputs to be exported", "Write spmd.from_torch(model, (x,)).")
    if inputs is not None and not isinstance(inputs, (tuple, list)):
        what = f"example_inputs is a {type(inputs).__name__}, and holds the arguments of the model"
        raise ShardingError("from_torch", what, "Write spmd.from_torch(model, (x,)).")
    try:
        with torch.no_grad(), _without_cache(model):
            return torch.export.export(model, tuple(inputs or ()), dict(kwargs or {}), dynamic_shapes=dynamic_shapes)
    except Exception as error:
        what = f"torch.export cannot export it: {type(error).__name__}: {error}"
        raise ShardingError(f"from_torch, {type(model).__name__}", what, _EXPORT) from error


@contextmanager
def _without_cache(model: Any) -> Generator[None]:
    """The configurations of a model of transformers without the cache of keys and values, which is no tensor."""
    found: list[Any] = [module.config for module in model.modules() if hasattr(module, "config")]
    configs = {id(config): config for config in found if getattr(config, "use_cache", None) is True}
    if configs:
        _LOG.warning(f"from_torch, {type(model).__name__}: it is imported with use_cache=False, and gives no cache")
    try:
        for config in configs.values():
            config.use_cache = False
        yield
    finally:
        for config in configs.values():
            config.use_cache = True


def _decomposed(program: Any) -> Any:
    """The program in core operators, and in larger ones that TVM has as they are.

    A view is a reshape meanwhile: what is kept whole may lie in memory in another order than its parts would.
    """
    torch: Any = import_module("torch")
    aten: Any = torch.ops.aten
    table = torch.export.default_decompositions()
    for op in kept_whole(program):
        table.pop(op, None)
    views = [node for node in program.graph.nodes if node.target is aten.view.default]
    try:
        for node in views:
            node.target = aten.reshape.default
        made = program.run_decompositions(table)
    finally:  # the program is the caller's
        for node in views:
            node.target = aten.view.default
    for node in list(made.graph.nodes):
        if node.target is aten._assert_tensor_metadata.default:  # of dtypes, which are known here
            made.graph.erase_node(node)
    return made


def _check(program: Any) -> None:
    """Refuse what the importer would drop or change without a word."""
    for spec in program.graph_signature.output_specs:
        if "MUTATION" in spec.kind.name:
            way_out = "Return the new value, and take the old one as an input; model.eval() where training alone writes it."
            raise ShardingError(f"from_torch, {spec.target!r}", "the model writes it, which would be lost", way_out)
    for spec in program.graph_signature.input_specs:
        if spec.kind.name == "USER_INPUT" and not _is_tensor(spec) and not _is_constant(spec):
            what = f"it is {getattr(spec.arg, 'value', spec.arg)!r}, no tensor, and not the same in all calls"
            way_out = "Give tensors alone, and make the rest attributes of the model, or leave their dimension out of dynamic_shapes."
            raise ShardingError(f"from_torch, input {spec.arg.name!r}", what, way_out)
    for node in program.graph.nodes:
        name = getattr(node.target, "__name__", "")
        in_training = name.startswith(_DROPOUT) and node.args[2]
        if in_training or (name.startswith(_RANDOM) and not name.startswith(_DROPOUT)):
            where = f"from_torch, {_name(node)!r}"
            raise ShardingError(where, f"{name} draws random numbers", "Call model.eval() before, or take them as an input.")


def _is_tensor(spec: Any) -> bool:
    return type(spec.arg).__name__ == "TensorArgument"


def _is_constant(spec: Any) -> bool:
    return type(spec.arg).__name__ == "ConstantArgument"


def _without_constants(program: Any) -> list[bool]:
    """Take inputs that are no tensors, which the program has as they were, out of it; whether each input was a tensor."""
    specs = program.graph_signature.input_specs
    gone = {spec.arg.name for spec in specs if spec.kind.name == "USER_INPUT" and not _is_tensor(spec)}
    are_tensors = [_is_tensor(spec) for spec in specs if spec.kind.name == "USER_INPUT"]
    for node in list(program.graph.nodes):
        if node.op == "placeholder" and node.name in gone:
            program.graph.erase_node(node)
    specs[:] = [spec for spec in specs if spec.arg.name not in gone]
    return are_tensors


def _translated(program: Any) -> tuple[tvm.IRModule, dict[str, str]]:
    """The module, and for each weight, in order, the name of its placeholder and its own."""
    from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

    importer = ExportedProgramImporter()
    own = {**CONVERTED, **torch_experts.CONVERTED, **torch_mended.CONVERTED}
    importer.update_convert_map({name: _bound(convert, importer) for name, convert in own.items()})
    nodes = list(program.graph.nodes)
    builder = importer.block_builder = NamingBuilder()
    importer.convert_map = torch_complex.with_pairs(importer.convert_map, importer)
    _check_known(nodes, importer.convert_map)
    typed = {name: torch_types.promoted(name, convert, importer) for name, convert in importer.convert_map.items()}
    importer.convert_map = {name: _named(convert, builder) for name, convert in typed.items()}
    weights, inputs, _ = importer.create_input_vars(program)
    used = {node.name for node in nodes if node.op == "placeholder" and node.users}
    specs = [s for s in program.graph_signature.input_specs if s.kind.name != "USER_INPUT" and s.arg.name in used]
    named = {spec.arg.name: relax.Var(spec.target, weights[spec.arg.name].ty) for spec in specs}
    with builder.function("main", [*inputs.values(), *named.values()], attrs={"num_input": len(inputs)}):
        with builder.dataflow():
            results = importer._translate_fx_graph(program.graph_module, nodes, {**inputs, **named})
            output = builder.emit_output(results[0] if len(results) == 1 else relax.Tuple(list(results)))
        builder.emit_func_output(output)
    return builder.get(), {spec.arg.name: spec.target for spec in specs}


def _bound(convert: Callable[[Any, Any], Any], importer: Any) -> Callable[[Any], Any]:
    return lambda node: convert(node, importer)


def _named(convert: Callable[[Any], Any], builder: NamingBuilder) -> Callable[[Any], Any]:
    """A conversion that names its values, and whose failure names the operator."""

    def named(node: Any) -> Any:
        builder.hint = _name(node)
        try:
            return torch_types.checked(convert(node), node, builder)
        except Exception as error:
            what = f"TVM's importer fails at {node.target}: {type(error).__name__}: {error}"
            raise ShardingError(f"from_torch, {builder.hint!r}", what, "Write that part of the model in other operators.") from error

    return named


def _name(node: Any) -> str:
    """``layers.0.mlp.up.linear``: where a node stands in the model, and its operator."""
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    path = stack[-1] if stack and not stack[-1].startswith("_") else ""
    operator = getattr(node.target, "__name__", str(node.target)).partition(".")[0]
    return f"{path}.{operator}" if path else operator


def _check_known(nodes: Sequence[Any], known: Mapping[str, Any]) -> None:
    missing: dict[str, list[Any]] = {}
    for node in nodes:
        if node.op == "call_function" and (node.target.__name__ not in known or torch_complex.is_unknown(node)):
            missing.setdefault(str(node.target), []).append(node)
    if missing:
        told = ", ".join(f"{op} (at {_name(found[0])!r})" for op, found in missing.items())
        raise ShardingError("from_torch", f"TVM's importer does not know {told}", "Write that part of the model in other operators.")


def _weights(program: Any, names: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str], frozenset[str], frozenset[str]]:
    """The arrays by name, other names of those that are tied, the names of those that no checkpoint has, and those that are not read."""
    state = dict(program.state_dict)
    found = {name: state[name] if name in state else program.constants[name] for name in names.values()}
    of_storage = {_storage(array): name for name, array in found.items()}
    same = {name: of_storage[_storage(array)] for name, array in state.items() if name not in found and _storage(array) in of_storage}
    unused = frozenset(name for name in state if name not in found and name not in same)
    return found, same, frozenset(name for name in found if name not in state), unused


def _storage(array: Any) -> tuple[Any, ...]:
    return array.data_ptr(), array.dtype, tuple(array.shape), tuple(array.stride())


def _with_sizes_named(mod: tvm.IRModule, dynamic_shapes: Any, are_tensors: Sequence[bool]) -> tvm.IRModule:
    """Symbolic sizes by the names of their `torch.export.Dim`, where they are given so and are the size of an input."""
    function = mod["main"]
    inputs: list[Any] = list(function.params)[: int(function.attrs["num_input"])]
    found: dict[Any, Any] = {}
    for var, dims in _said_of(inputs, dynamic_shapes, are_tensors):
        for at, dim in dims.items() if isinstance(dims, Mapping) else enumerate(dims or ()):
            symbol = var.ty.shape[at] if hasattr(dim, "__name__") else None
            if isinstance(symbol, tvm.tirx.Var) and symbol not in found:
                found[symbol] = tvm.tirx.Var(dim.__name__, "int64")
    return tvm.IRModule({"main": function.bind_symbolic_vars(found)}) if found else mod


def _said_of(inputs: Sequence[Any], dynamic_shapes: Any, are_tensors: Sequence[bool]) -> Iterator[tuple[Any, Any]]:
    """Each input with what is said of its dimensions: by its name, or by its place where one thing is said of each."""
    if isinstance(dynamic_shapes, Mapping):
        shapes = cast("Mapping[Any, Any]", dynamic_shapes)
        yield from ((var, shapes[var.name]) for var in inputs if var.name in shapes)
        return
    listed = list(_leaves(dynamic_shapes or ()))
    if len(listed) == len(are_tensors):
        listed = [said for said, is_tensor in zip(listed, are_tensors, strict=True) if is_tensor]
    if len(listed) == len(inputs):
        yield from zip(inputs, listed, strict=True)


def _leaves(tree: Any) -> Iterator[Any]:
    """What is said of each tensor: a dict of its dimensions, a tuple of them, or None."""
    for part in tree:
        if isinstance(part, (list, tuple)) and any(isinstance(p, (list, tuple, Mapping)) for p in cast("Sequence[Any]", part)):
            yield from _leaves(part)
        else:
            yield part
