"""Wrong programs, made of right ones by one change each: the classes of faults that sharded programs have had.

    python -m tests.verify.mutants [--count 200] [--seed 0] [--log FILE]

A mutant that the verifier takes for right is run on numbers beside the program that it is made of: where these agree it is equivalent,
else it survives. What takes a cache, or is too large, cannot be run so, and what follows an undecided value is undecided. Of each program
there is one mutant a class; each seed has another model among them. Every mutant is a line in FILE, and the table is of all lines there:
runs of several seeds add up.
"""

import argparse
import logging
from collections import Counter
from pathlib import Path

from .make import KINDS, mutants
from .sources import sources

OUTCOMES = ("killed", "equivalent", "undecided", "not run", "survived")


def tried(count, seed):
    """So many mutants, at most one of a class of each program, and the classes about equally often: (source, class, function, mutant)."""
    found, left = Counter(), count
    for source in sources(seed):
        here = set()
        for kind, function, make in mutants(source.sharded, seed):
            if kind in here or found[kind] > 2 * count // len(KINDS):
                continue
            made = make()
            if made is not None:
                here.add(kind)
                found[kind] += 1
                yield source, kind, function, made
                left -= 1
                if not left:
                    return


def table(lines):
    """By class, how many mutants came to which end."""
    counts = Counter(tuple(line.split("\t")[:2]) for line in lines)
    rows = [(kind, [counts[kind, outcome] for outcome in OUTCOMES]) for kind in KINDS]
    rows.append(("all", [sum(column) for column in zip(*(row for _, row in rows), strict=True)]))
    head = f"{'class':44}" + "".join(f"{name:>12}" for name in OUTCOMES)
    return "\n".join([head, *(f"{kind:44}" + "".join(f"{n:12}" for n in row) for kind, row in rows)])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="where lines are added")
    told = parser.parse_args()
    logging.getLogger("spmd").addHandler(logging.NullHandler())
    lines = []
    for source, kind, function, made in tried(told.count, told.seed):
        said = source.outcome(function, made)
        lines.append(f"{kind}\t{said}\t{source.name}\t{function}\t{told.seed}")
        if told.log:
            with told.log.open("a") as log:
                log.write(lines[-1] + "\n")
        if said not in ("killed", "equivalent"):
            print(lines[-1], flush=True)
    print(table(told.log.read_text().splitlines() if told.log else lines))


if __name__ == "__main__":
    main()
