"""Operators as a tree of modules, in which equal layers stand once."""

import pytest

from spmd.explain.modules import Group, Operator, module_tree


def shown(item):
    """A tree as nested lists, with how many equal ones a group stands for."""
    return (
        item
        if isinstance(item, int)
        else [f"{item.name} x{len(item.names)}" if len(item.names) > 1 else item.name, *map(shown, item.children)]
    )


def layer(weights, prefix="", count=1):
    """Operators one after another, each with the weights that it takes, in so many layers."""
    return [(name, f"{prefix}{i}.{weight}" if weight else "") for i in range(count) for name, weight in weights]


def tree(rows, kinds=None):
    """Each row is the name of an operator and that of the weight that it takes; each takes the value before it, too."""
    operators = [Operator(f"{name}{i}", (f"v{i - 1}", *([weight] if weight else [])), (f"v{i}",)) for i, (name, weight) in enumerate(rows)]
    return module_tree(operators, {weight for _, weight in rows if weight}, kinds or [name for name, _ in rows])


BLOCK = [("norm", "norm.weight"), ("matmul", "mlp.up.weight"), ("silu", ""), ("matmul", "mlp.down.weight"), ("add", "")]


def test_modules_are_read_off_the_names_of_weights():
    made = tree(layer(BLOCK, "h.", 1))
    assert shown(made) == ["", ["h.0", ["norm", 0], ["mlp", ["up", 1], 2, ["down", 3]], 4]]


def test_equal_layers_stand_once():
    rows = [("take", "embed.weight"), *layer(BLOCK, "h.", 12), ("norm", "ln.weight"), ("matmul", "head.weight")]
    made = tree(rows)
    assert shown(made)[1:] == [["embed", 0], ["h.* x12", ["norm", 1], ["mlp", ["up", 2], 3, ["down", 4]], 5], ["ln", 61], ["head", 62]]
    fold = made.children[1]
    assert (fold.start, fold.size, fold.stop) == (1, 5, 61) and fold.names == tuple(f"h.{i}" for i in range(12))


def test_layers_of_two_kinds_that_take_turns():
    other = [*BLOCK[:1], ("tanh", "mlp.up.weight"), *BLOCK[2:]]
    made = tree([(name, weight and f"h.{i}.{weight}") for i in range(8) for name, weight in (BLOCK, other)[i % 2]])
    (fold,) = made.children
    assert fold.name == "h.*" and fold.names == ("h.0-1", "h.2-3", "h.4-5", "h.6-7") and fold.size == 10


def test_a_layer_of_another_kind_stands_alone():
    rows = layer(BLOCK, "h.", 6)
    kinds = ["first", *(name for name, _ in rows[1:])]
    assert [shown(child)[0] for child in tree(rows, kinds).children[0].children] == ["0", "* x5"]


def test_what_a_weight_is_made_into_belongs_to_its_module():
    operators = [
        Operator("p", ("a.q.weight", "a.q.scale"), ("q",)),
        Operator("t", ("q",), ("qt",)),
        Operator("m", ("x", "qt"), ("y",)),
        Operator("n", ("y", "a.norm.weight"), ("z",)),
    ]
    made = module_tree(operators, {"a.q.weight", "a.q.scale", "a.norm.weight"}, [0, 1, 2, 3])
    assert shown(made) == ["", ["a", ["q", 0, 1, 2], ["norm", 3]]]


def test_a_table_that_layers_share_is_no_module_in_them():
    rows = [("m", "a.0.w"), ("cos", "table.w"), ("m", "a.0.v"), ("m", "a.1.w"), ("cos", "table.w"), ("m", "a.1.v")]
    assert shown(tree(rows, range(6))) == ["", ["a", ["0", 0, 1, 2], ["1", 3, 4, 5]]]


def test_weights_that_a_training_step_takes_again():
    forward = [("take", "embed.w"), ("m", "h.0.w"), ("m", "h.1.w"), ("n", "norm.w")]
    rows = [*forward, *reversed(forward), *forward]
    names = [shown(child)[0] for child in tree(rows, range(12)).children]
    assert names == ["embed", "h", "norm", "h", "embed", "h", "norm"]  # two of the norm one after another, and of the embedding


def test_values_named_after_modules():
    operators = [Operator(name, ("x",), ("x",)) for name in ("model_layers_0_mlp_act", "model_layers_0_add", "model_norm_pow", "other")]
    operators.append(Operator("m", ("x", "model.layers.0.mlp.up.weight"), ("y",)))
    operators.append(Operator("n", ("y", "model.norm.weight"), ("z",)))
    made = module_tree(operators, {"model.layers.0.mlp.up.weight", "model.norm.weight"}, range(6))
    assert shown(made)[1][1:] == [["layers.0", ["mlp", 0], 1], ["norm", 2], 3, ["layers.0.mlp.up", 4], ["norm", 5]]


def test_without_modules_operators_repeat():
    made = tree([("a", ""), *[("b", "w"), ("c", ""), ("d", "")] * 9, ("e", "")])
    assert shown(made) == ["", 0, ["* x9", 1, 2, 3], 28] and made.children[1].names == tuple(map(str, range(9)))


def test_many_operators_of_no_module_are_put_together():
    rows = [("m", "a.w"), *[(name, "") for name in "bcdefgh"], ("m", "z.w")]
    assert shown(tree(rows)) == ["", ["a", 0], ["7 operators", *range(1, 8)], ["z", 8]]
    assert shown(tree([])) == [""]


@pytest.mark.parametrize("count", [1, 2, 5, 33])
def test_every_operator_is_somewhere(count):
    rows = [("take", "embed.weight"), *layer(BLOCK, "h.", count), ("tanh", "")]
    seen = []

    def visit(item, offset):
        if not isinstance(item, Group):
            seen.append(item + offset)
            return
        for k in range(len(item.names)):
            for child in item.children:
                visit(child, offset + k * item.size)

    visit(tree(rows), 0)
    assert seen == list(range(len(rows)))
