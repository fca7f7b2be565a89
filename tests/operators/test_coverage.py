"""Every operator of TVM has a row, or a reason why it has none; every operator that is never split has a reason, too."""

from collections import defaultdict

import pytest
import tvm
from tvm import relax, te

from spmd.program.build import build_graph
from spmd.rules.families.not_user_ops import NOT_USER_OPS
from spmd.schedules import build
from tests.operators import document, unlowered
from tests.operators.exceptions import NO_ROW, WHOLE

EXAMPLES = list(document.examples())
USER_OPS = {name for name in tvm.ir.Op.list_op_names() if name.startswith("relax.")} - NOT_USER_OPS.keys()


def test_every_operator_has_a_row_or_a_reason():
    rows = {document.operator_of(node) for node, _ in EXAMPLES}
    assert len(USER_OPS) > 181
    assert sorted(USER_OPS - rows - NO_ROW.keys()) == [], "give it a row in tests/operators, or a reason in exceptions.py"
    assert sorted(NO_ROW.keys() & rows) == [], "these have rows"
    assert NO_ROW.keys() <= USER_OPS


def test_operators_that_are_never_split_are_few_and_have_a_reason():
    split = defaultdict(bool)
    for node, strategies in EXAMPLES:
        split[document.operator_of(node)] |= any(s.splits or s.partial_through for s in strategies)
    never = {op for op, found in split.items() if not found}
    assert sorted(never - WHOLE.keys()) == [], "split it, or say in exceptions.py why it cannot be"
    assert sorted(WHOLE.keys() - never - NO_ROW.keys()) == [], "these are split"
    assert len(WHOLE) <= 15


@pytest.mark.parametrize("name", sorted(unlowered.MODULE.functions, key=str))
def test_tvm_itself_cannot_run_what_is_called_unlowered(name):
    with pytest.raises((tvm.error.InternalError, RuntimeError, AttributeError)):
        build(tvm.IRModule({name: unlowered.MODULE[name]}))


def _doubled(operator):
    """``2 * x`` as a kernel, called by `operator`."""
    builder, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType((5, 4), "float64"))
    with builder.function("main", [x]):
        made = builder.call_te(lambda a: te.compute(a.shape, lambda i, j: a[i, j] * 2), x)
        builder.emit_func_output(builder.emit(operator(made.args[0], x, relax.TensorType((5, 4), "float64"))))
    return builder.finalize()


def test_a_kernel_with_a_gradient_has_the_rule_of_its_kernel():
    plain = _doubled(lambda kernel, x, ty: relax.op.call_tir(kernel, [x], ty))
    graded = _doubled(lambda kernel, x, ty: relax.op.call_tir_with_grad(kernel, [x], ty, te_grad_name="none"))
    rules = [build_graph(mod).functions["main"].nodes[0].rule for mod in (plain, graded)]
    assert rules[0] == rules[1] and rules[0].whole == frozenset()
    with pytest.raises(tvm.error.InternalError, match="cannot emit this Relax operator"):
        build(graded)


def test_a_call_of_a_python_function_is_whole_with_a_note():
    builder, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType((5, 4), "float64"))
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(relax.op.call_py_func("tests.nobody", [x], out_ty=x.ty)))
    (node,) = build_graph(builder.finalize()).functions["main"].nodes
    assert node.no_rule == "relax.call_py_func has no rule" and node.rule.whole == set(node.rule.factors)
