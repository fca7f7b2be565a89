"""Operators that have no row or that are computed whole, each with the reason; tests fail for any that is not named here."""

NO_ROW = {
    "relax.call_py_func": "it calls a Python function of a BasePyModule, which no virtual machine can look up",
    "relax.call_tir_with_grad": "only the Gradient pass takes it away; its rule is read off its kernel, as that of call_tir",
    "relax.spmd.hint": "it is this compiler's own, and tests/annotate tests it in programs",
}
"""Operator -> why no row of it can be run."""

WHOLE = {
    "relax.assert_op": "it has an effect, and asks for a whole condition",
    "relax.call_py_func": "what a Python function does is not known",
    "relax.dynamic_strided_slice": "the shape of its result hangs on data",
    "relax.nonzero": "the shape of its result hangs on data",
    "relax.null_value": "it has no tensor",
    "relax.print": "it has an effect, and prints the whole value",
    "relax.shape_to_tensor": "a shape is on every worker, and so is what is made of it",
    "relax.tensor_to_shape": "a shape is on every worker, and needs all of the tensor",
    "relax.unique": "the shape of its result hangs on data",
    "relax.vision.all_class_non_max_suppression": "the shape of its result hangs on data",
}
"""Operator -> why no dimension of it is ever split."""
