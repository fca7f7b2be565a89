"""Values made again: whoever reads them late reads a copy, which is made by the same operators right before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm
import tvm_ffi
from tvm import relax

AGAIN = "again"
"""What the names of copies end in."""


def made_again(function: relax.Function, late: Mapping[int, int]) -> relax.Function:
    """`function` with copies of what is bound to some variables, by hash: a binding reads the copy if its number is this or greater.

    Bindings are numbered as they stand in the blocks of the function; those in branches have the number of their If. Fields, tuples and
    other names of what is made again are made again, too. What is made is pure, and bound in no branch.
    """
    return _Again(function, dict(late)).run()


class _Again:
    def __init__(self, function: relax.Function, late: dict[int, int]) -> None:
        self.function, self.late = function, late
        self.bindings: list[Any] = [binding for block in function.body.blocks for binding in block.bindings[:]]
        self.blocks = [i for i, block in enumerate(function.body.blocks) for _ in block.bindings[:]]
        self._made_by = {hash(binding.var): binding for binding in self.bindings}
        self._used = [_used(binding.value) for binding in self.bindings]
        self._number = {hash(binding.var): i for i, binding in enumerate(self.bindings)}
        for binding, used in zip(self.bindings, self._used, strict=True):
            known = [late[var] for var in used if var in late]
            if known and isinstance(binding.value, tvm.ir.Var | relax.Tuple | relax.TupleGetItem):
                late.setdefault(hash(binding.var), min(known))
        self._inside = self._read_inside()
        self._copies: dict[int, Any] = {}

    def run(self) -> relax.Function:
        """The function with its copies."""
        made: list[list[Any]] = [[] for _ in self.function.body.blocks]
        for at, (binding, block) in enumerate(zip(self.bindings, self.blocks, strict=True)):
            made[block] += self._copies_for(self._used[at], at)
            made[block].append(self._rewritten(binding, at))
        function, body = self.function, self.function.body
        blocks = [type(block)(found) for block, found in zip(body.blocks, made, strict=True)]
        result = relax.SeqExpr(blocks, body.body, body.span)
        return relax.Function(function.params, result, function.ret_ty, bool(function.is_pure), function.attrs, function.span)

    def _copies_for(self, used: list[int], at: int) -> list[Any]:
        """Bindings of the copies that binding number `at` needs and that are not there, each after what it is made of."""
        found: list[Any] = []
        waiting = [var for var in used if self._is_late(var, at)]
        while waiting:
            needs = [var for var in self._used[self._number[waiting[-1]]] if self._is_late(var, at) and var not in self._copies]
            if waiting[-1] in self._copies:
                waiting.pop()
            elif needs:
                waiting += needs
            else:
                found.append(self._copy(waiting.pop(), at))
        return found

    def _copy(self, var: int, at: int) -> Any:
        binding = self._made_by[var]
        kind = relax.DataflowVar if var in self._inside else relax.Var
        self._copies[var] = copy = kind(f"{binding.var.name}_{AGAIN}", binding.var.ty, binding.var.span)
        return relax.VarBinding(copy, self._replaced(binding.value, at), binding.span)

    def _rewritten(self, binding: Any, at: int) -> Any:
        value = self._replaced(binding.value, at)
        if value is binding.value:
            return binding
        if isinstance(binding, relax.MatchCast):
            return relax.MatchCast(binding.var, value, binding.ty, binding.span)
        return relax.VarBinding(binding.var, value, binding.span)

    def _replaced(self, value: Any, at: int) -> Any:
        if not any(self._is_late(var, at) for var in _used(value)):
            return value
        return tvm_ffi.structural_mutate(
            value, [(tvm.ir.Var, lambda var, _: self._copies[hash(var)] if self._is_late(hash(var), at) else var)]
        )

    def _is_late(self, var: int, at: int) -> bool:
        return at >= self.late.get(var, len(self.bindings))

    def _read_inside(self) -> set[int]:
        """What is read late in one dataflow block alone: its copy is a variable of that."""
        where: dict[int, set[int]] = {}
        for at, used in enumerate(self._used):
            waiting, seen = [var for var in used if self._is_late(var, at)], set[int]()
            while waiting:
                var = waiting.pop()
                if var not in seen:
                    seen.add(var)
                    where.setdefault(var, set()).add(self.blocks[at])
                    waiting += [one for one in self._used[self._number[var]] if self._is_late(one, at)]
        blocks = self.function.body.blocks
        return {var for var, found in where.items() if len(found) == 1 and isinstance(blocks[min(found)], relax.DataflowBlock)}


def _used(value: Any) -> list[int]:
    """The variables that a value reads, by hash."""
    found: list[Any] = []
    tvm_ffi.structural_walk(value, (tvm.ir.Var, found.append))
    return list(dict.fromkeys(hash(var) for var in found))
