"""`verify`: the per-worker program computes what the module computes, for all values of its arguments."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm
import tvm_ffi

from spmd.errors import ShardingError
from spmd.placement.mesh import Mesh

from . import request, signature
from .arguments import Run, fewest_decisions, fewest_integers
from .field import PRIME
from .pair import Asked, Pair
from .pieces import PIECE, NotInPieces, Pieces, Relations
from .relational import Relational
from .shrink import LARGE, TOO_LARGE, NotShrunk, shrunk, work
from .signature import Signature

_ROUNDS, _MOST_ROUNDS = 4, 16
"""Runs of a function that is given integers: more where these are fewer than workers."""
_DECISIONS = 8
"""What depends on an order of floats has so many elements in all runs of a function."""


@dataclass(frozen=True)
class Proof:
    """What was shown: each of `functions` gives on the workers what it gives in the module, but for what is `undecided`."""

    functions: tuple[str, ...]
    elements: int
    """How many numbers of results were compared, over all runs and workers."""
    undecided: tuple[str, ...]
    """Results of which nothing is known, each with the reason."""
    runs: int
    smaller: bool = False
    """Whether this was shown of the same programs at smaller sizes."""
    pieces: int = 0
    """Pairs of pieces by which functions were shown, equal ones counted once."""
    relational: tuple[str, ...] = ()
    """Functions that were shown without numbers, at their own sizes: by relations of the workers' values to the module's."""
    unrelated: tuple[str, ...] = ()
    """The other functions, each with the first value that has no relation that is known, and why."""

    def __bool__(self) -> bool:
        """Whether nothing is undecided."""
        return not self.undecided

    def __str__(self) -> str:
        said = f"{len(self.functions)} functions"
        said += f", {len(self.relational)} by relations of their values" if self.relational else ""
        said += f", {self.elements} numbers modulo {PRIME} are the same in {self.runs} runs" if self.runs else ""
        said += f", by {self.pieces} different pieces" if self.pieces else ""
        said += ", at smaller sizes" if self.smaller else ""
        return "\n".join([f"proven: {said}" if self else said, *(f"undecided: {text}" for text in self.undecided)])


def verify(
    mod: tvm.IRModule,
    sharded: Any,
    *,
    mesh: Mesh | int | Mapping[str, int] | None = None,
    inputs: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Any] | None = None,
    sizes: Mapping[str, int] | None = None,
    arguments: Mapping[str, Any] | None = None,
    rounds: int | None = None,
    seed: int = 0,
) -> Proof:
    """Prove that `sharded` computes on its workers what `mod` computes, or raise `ShardingError` with the first value that is wrong.

    `sharded` is what `spmd.shard` gives, or a per-worker module that somebody wrote: then `mesh` is its workers, and `inputs`
    (``"main.x"``) and `outputs` (``"main"``, ``"main[0]"``) give `Sharding`s, for all that is not whole. `sizes` says for which symbolic
    sizes it is shown; `arguments` gives arrays for parameters whose integers cannot be arbitrary, by ``"main.x"``. Each of `rounds` runs
    a function on other numbers, by default one, and more where there are integers or few elements depend on an order: docs/verify.md says
    what is left to chance.
    """
    request.module("mod", mod)
    plan, local = getattr(sharded, "plan", None), getattr(sharded, "mod", sharded)
    request.module("sharded", local)
    if plan is None and mesh is None:
        raise ShardingError("verify", "it takes a module without a plan only with a mesh", "Pass mesh=, inputs= and outputs=.")
    workers = Mesh.of(plan.mesh if plan is not None else mesh)  # pyright: ignore[reportArgumentType]
    placed_inputs = request.placements("inputs", request.named("inputs", inputs, request.parameters(mod)))
    placed_outputs = request.placements("outputs", request.named("outputs", outputs, request.results(mod)))
    given = request.arrays(request.named("arguments", arguments, request.parameters(mod)))
    told = {name: request.number(f"sizes[{name!r}]", n, 0) for name, n in request.named("sizes", sizes, request.symbols(mod)).items()}
    signatures = signature.of_plan(plan, mod, local) if plan is not None else signature.of_user(mod, local, placed_inputs, placed_outputs)
    first, count = request.number("seed", seed, 0), request.number("rounds", 1 if rounds is None else rounds, 1)
    asked = Asked(workers, told, plan.divisible if plan is not None else {}, given, first, rounds and count)
    unrelated = _unrelated(mod, local, signatures, asked)
    left, proofs = {name: how for name, how in signatures.items() if name in unrelated}, list[Proof]()
    if left and not given:
        proofs, left = _by_pieces(_only(mod, left), _only(local, left), left, asked)
    if left:
        mod, local = _only(mod, left), _only(local, left)
        proofs.append(_evaluated(mod, local, left, asked, is_large=work(mod) > LARGE))
    shown = tuple(name for name in signatures if name not in unrelated)
    return replace(
        _joined(tuple(signatures), proofs), relational=shown, unrelated=tuple(f"{name}: {why}" for name, why in unrelated.items())
    )


def _unrelated(mod: tvm.IRModule, local: tvm.IRModule, signatures: Mapping[str, Signature], asked: Asked) -> dict[str, str]:
    """The functions that are not shown by relations, each with the reason. Floats are real numbers there, and infinities are none."""
    if not all(np.isfinite(array).all() for array in asked.arguments.values()):
        return dict.fromkeys(signatures, "infinities, or what is no number, are among the arguments")
    return Relational(mod, local, asked.mesh, asked.divisible).unrelated(signatures)


def _evaluated(
    mod: tvm.IRModule,
    local: tvm.IRModule,
    signatures: Mapping[str, Signature],
    asked: Asked,
    *,
    is_large: bool,
    held: Relations | None = None,
) -> Proof:
    """Run both programs, made smaller where they are large. How results of an open signature are held is added to `held`."""
    smaller = False
    if is_large and not asked.arguments:
        try:
            mod, local, signatures = shrunk(mod, local, signatures, asked.mesh)
            smaller = True
        except NotShrunk as reason:
            if work(mod) > TOO_LARGE:
                return Proof(tuple(signatures), 0, (f"all of it: it is too large to be evaluated, and {reason}",), 0)
    pair = Pair(mod, local, asked, held or Relations())
    for name, one in signatures.items():
        told = [key.split(".", 1)[1] for key in asked.arguments if key.startswith(f"{name}.")]
        turns = asked.rounds or _rounds(mod[name], told, asked.mesh)
        for turn in range(turns):
            pair.check(name, one, Run(asked.seed + turn, turn, turns))
    return Proof(tuple(signatures), pair.elements, tuple(dict.fromkeys(pair.undecided)), pair.runs, smaller)


def _rounds(func: Any, told: Collection[str], mesh: Mesh) -> int:
    """How often a function is run: so that few integers are of each worker's part, and few decisions go each way."""
    integers, decisions = fewest_integers(func, told), fewest_decisions(func)
    of_integers = 1 if integers is None else max(_ROUNDS, -(-mesh.size // max(integers, 1)))
    return min(max(of_integers, 1 if decisions is None else -(-_DECISIONS // decisions)), _MOST_ROUNDS)


def _by_pieces(
    mod: tvm.IRModule, local: tvm.IRModule, signatures: Mapping[str, Signature], asked: Asked
) -> tuple[list[Proof], dict[str, Signature]]:
    """Proofs of all pieces of the functions that are shown by them, and the other functions."""
    proofs: list[Proof] = []
    is_large = work(mod) > LARGE

    def shown(one: tvm.IRModule, many: tvm.IRModule, how: Signature) -> Relations:
        held = Relations()
        try:
            proofs.append(_evaluated(one, many, {PIECE: how}, asked, is_large=is_large, held=held))
        except ShardingError as alarm:
            raise NotInPieces from alarm
        if not proofs[-1]:
            raise NotInPieces
        return held

    pieces, left = Pieces(mod, local, asked.mesh, shown), dict[str, Signature]()
    for name, how in signatures.items():
        before = len(proofs)
        try:
            pieces.show(name, how)
        except NotInPieces:
            left[name] = how
            del proofs[before:]
    return proofs, left


def _only(mod: tvm.IRModule, names: Mapping[str, Any]) -> tvm.IRModule:
    """A module without the functions that are shown already, but for those that others call."""
    called: set[Any] = set()
    for func in mod.functions.values():
        tvm_ffi.structural_walk(func, ((tvm.ir.GlobalVar,), called.add))
    public = request.functions(mod)
    return tvm.IRModule(
        {v: f for v, f in mod.functions.items() if v.name_hint not in public or v.name_hint in names or v in called}, attrs=mod.attrs
    )


def _joined(names: tuple[str, ...], proofs: Sequence[Proof]) -> Proof:
    undecided = tuple(dict.fromkeys(text for proof in proofs for text in proof.undecided))
    smaller = any(proof.smaller for proof in proofs)
    pieces = sum(proof.functions == (PIECE,) for proof in proofs)
    return Proof(names, sum(proof.elements for proof in proofs), undecided, sum(proof.runs for proof in proofs), smaller, pieces)
