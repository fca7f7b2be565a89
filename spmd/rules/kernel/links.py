"""Loop variables and buffer dimensions as numbers, and how indices link the parts of one to those of another."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tvm import tirx

from spmd.ir.expressions import static, variables
from spmd.rules.model import Size

from .model import Unreadable
from .normal import split_parts, terms


@dataclass
class Node:
    """A loop variable or a buffer dimension, as a number that is cut at `divisors` (each the product of what is minor to it)."""

    size: Size
    divisors: set[int]


@dataclass(frozen=True)
class Link:
    """The part of `a` from `a_minor` on and that of `b` from `b_minor` on, `extent` long, are one; all of both where it is None."""

    a: Any
    b: Any
    a_minor: int = 1
    b_minor: int = 1
    extent: int | None = None


class Links:
    """The nodes of a kernel and the links between them."""

    def __init__(self) -> None:
        self.nodes: dict[Any, Node] = {}
        self.links: list[Link] = []

    def index(self, key: Any, size: Size, index: Any) -> bool:
        """Link a buffer dimension to the loop variables that index it; False where the index is of no known form."""
        known = self.nodes.get(index)
        if known is not None and known.size == size:
            self.links.append(Link(index, key))
            return True
        if static(index) == 0:
            return size == 1
        inside = variables(index)
        if size is None or not inside or any(v not in self.nodes or self.nodes[v].size is None for v in inside):
            return False
        found = split_parts([index], {v: tirx.IntImm(str(v.ty.dtype), self.nodes[v].size or 0) for v in inside})
        if len(found) != 1 or static(found[0].base) != 0:
            return False
        rest = size
        links: list[Link] = []
        for var, low, extent, scale in sorted(terms(found[0]) or [], key=lambda p: -p[3]):
            if var not in self.nodes or rest != extent * scale or (self.nodes[var].size or 0) % (low * extent):
                return False
            links.append(Link(var, key, low, scale, extent))
            rest = scale
        if rest != 1:
            return False
        for link in links:
            for node, low in ((self.nodes[link.a], link.a_minor), (self.nodes[key], link.b_minor)):
                node.divisors |= {d for d in (low, low * (link.extent or 1)) if 1 < d < (node.size or 0)}
        self.links += links
        return True

    def share_divisors(self) -> None:
        """Cut both ends of every link wherever one of them is cut."""

        def carried(link: Link, divisors: set[int], minor: int, other: int) -> set[int]:
            if link.extent is None:
                return divisors
            return {d // minor * other for d in divisors if d % minor == 0 and minor < d < minor * link.extent}

        changed = True
        while changed:
            changed = False
            for link in self.links:
                a, b = self.nodes[link.a], self.nodes[link.b]
                to_a, to_b = carried(link, b.divisors, link.b_minor, link.a_minor), carried(link, a.divisors, link.a_minor, link.b_minor)
                if not to_a <= a.divisors or not to_b <= b.divisors:
                    a.divisors |= to_a
                    b.divisors |= to_b
                    changed = True

    @staticmethod
    def chain(node: Node) -> list[tuple[int, Size]]:
        """The factors of a node, major first, each as ``(product of what is minor to it, size)``."""
        cuts = sorted(node.divisors, reverse=True)
        if not cuts:
            return [(1, node.size)]
        for a, b in pairwise(cuts):
            if a % b:
                raise Unreadable(f"it divides one index by both {a} and {b}")
        assert node.size is not None
        bounds = [node.size, *cuts, 1]
        return [(low, high // low) for high, low in pairwise(bounds)]

    def unify(self, chains: dict[Any, list[tuple[int, Size]]]) -> tuple[dict[Any, str], dict[str, Size]]:
        """The name of each factor of each chain, the same where a link makes two of them one, and the size of each name."""
        parent: dict[Any, Any] = {(key, i): (key, i) for key, chain in chains.items() for i in range(len(chain))}

        def root(x: Any) -> Any:
            while parent[x] is not x:
                x = parent[x]
            return x

        for link in self.links:
            for i, (low, _) in enumerate(chains[link.a]):
                if link.extent is not None and not link.a_minor <= low < link.a_minor * link.extent:
                    continue
                at = low // link.a_minor * link.b_minor
                j = next((j for j, (other, _) in enumerate(chains[link.b]) if other == at), None)
                if j is not None:
                    ra, rb = root((link.a, i)), root((link.b, j))
                    if ra is not rb:
                        parent[rb] = ra
        names: dict[Any, str] = {}
        sizes: dict[str, Size] = {}
        roots: dict[Any, str] = {}
        for key, chain in chains.items():
            for i, (_, size) in enumerate(chain):
                top = root((key, i))
                names[key, i] = roots.setdefault(top, f"f{len(roots)}")
                sizes.setdefault(names[key, i], size)
        return names, sizes
