"""Trees of JAX's partition specs as specs, without JAX."""

from dataclasses import dataclass

import pytest

from spmd import P, ShardingError
from spmd.annotate.importers import from_jax


class PartitionSpec(tuple):
    """That of JAX 0.4, a tuple."""

    __slots__ = ()

    class UNCONSTRAINED:
        """Its stand-in for what is left open."""

    def __new__(cls, *entries):
        return tuple.__new__(cls, entries)


def later(*entries, unreduced=frozenset()):
    """That of later versions, no tuple."""
    kind = type("PartitionSpec", (), {"__iter__": lambda self: iter(entries), "__repr__": lambda self: f"PartitionSpec{entries}"})
    made = kind()
    made.unreduced = unreduced
    return made


@dataclass
class NamedSharding:
    """A mesh and a spec."""

    mesh: object
    spec: object


@pytest.mark.parametrize("spec", [PartitionSpec, later])
def test_trees_of_partition_specs(spec):
    tree = {
        "embed": spec("tp"),
        "layers": [{"wq": spec(None, "tp"), "norm": spec()}, {"wq": NamedSharding(None, spec(("dp", "tp"), None)), "norm": None}],
        "head": {"kernel": spec(PartitionSpec.UNCONSTRAINED, "tp"), "bias": spec(())},
    }
    assert from_jax(tree) == {
        "embed": P("tp", others=None),
        "layers.0.wq": P(None, "tp", others=None),
        "layers.0.norm": P(others=None),
        "layers.1.wq": P(("dp", "tp"), None, others=None),
        "head.kernel": P("?", "tp", others=None),
        "head.bias": P((), others=None),
    }


JAX_REFUSED = {
    "leaf": ({"a": {"b": 3}}, r"from_jax: at 'a\.b' stands 3\. A leaf is a PartitionSpec"),
    "entry": ({"a": PartitionSpec(3)}, r"from_jax: 'a': \(3,\) has the entry 3\. Write None, an axis"),
    "names": ({"a.b": PartitionSpec(), "a": {"b": PartitionSpec()}}, r"from_jax: two leaves have the name 'a\.b'"),
    "partial": ({"a": later("tp", unreduced=frozenset({"dp"}))}, r"from_jax: 'a': PartitionSpec\('tp',\) is unreduced\. Partial sums are"),
}


@pytest.mark.parametrize("name", JAX_REFUSED)
def test_trees_that_are_refused(name):
    tree, message = JAX_REFUSED[name]
    with pytest.raises(ShardingError, match=message):
        from_jax(tree)


def current(*entries):
    """That of JAX 0.10: a class that is called P."""
    kind = type("P", (), {"UNCONSTRAINED": PartitionSpec.UNCONSTRAINED, "__iter__": lambda self: iter(entries)})
    return kind()


def test_partition_specs_of_current_jax_by_their_looks():
    tree = {"layers": [{"wq": current(None, "tp")}], "open": current(PartitionSpec.UNCONSTRAINED, ("dp", "tp")), "whole": current()}
    expected = {"layers.0.wq": P(None, "tp", others=None), "open": P("?", ("dp", "tp"), others=None), "whole": P(others=None)}
    assert from_jax(tree) == expected
    assert from_jax({"w": NamedSharding(None, current("tp"))}) == {"w": P("tp", others=None)}


def test_partition_specs_of_the_jax_that_is_installed():
    jax = pytest.importorskip("jax")
    spec = jax.sharding.PartitionSpec
    tree = {"w": spec(None, "tp"), "open": spec(spec.UNCONSTRAINED, ("dp", "tp")), "whole": spec(), "free": None}
    expected = {"w": P(None, "tp", others=None), "open": P("?", ("dp", "tp"), others=None), "whole": P(others=None)}
    assert from_jax(tree) == expected
    mesh = jax.sharding.Mesh(jax.devices()[:1], ("tp",))
    assert from_jax([jax.sharding.NamedSharding(mesh, spec("tp"))]) == {"0": P("tp", others=None)}


def test_a_spec_without_a_name():
    with pytest.raises(ShardingError, match=r"has no name\. Pass a tree, such as \{'w': spec\}"):
        from_jax(current("tp"))
