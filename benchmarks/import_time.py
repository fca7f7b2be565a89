"""How long ``import spmd`` takes beside ``import tvm``, which it contains: CPU time of fresh processes that take turns.

python -m benchmarks.import_time [--quick]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from statistics import median

from examples.llm.report import table

STATEMENTS = ("pass", "import tvm", "from tvm import relax", "import spmd")


def seconds(statement: str, cache: str) -> float:
    """CPU time of one Python process that runs `statement`, with byte code in `cache`, whatever the environment says of it."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {"PYTHONPYCACHEPREFIX": cache}
    before = os.times()
    subprocess.run([sys.executable, "-c", statement], check=True, env=environment)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 runs of each instead of 9")
    runs = 3 if parser.parse_args().quick else 9
    taken: dict[str, list[float]] = {s: [] for s in STATEMENTS}
    with tempfile.TemporaryDirectory() as cache:
        for statement in STATEMENTS:  # byte code and file caches
            seconds(statement, cache)
        for _ in range(runs):
            for statement in STATEMENTS:
                taken[statement].append(seconds(statement, cache))
    base = median(taken["import tvm"])
    rows = [(s, f"{median(t) * 1e3:.0f}", f"{min(t) * 1e3:.0f}", f"{median(t) / base:.2f}") for s, t in taken.items()]
    print(table(("python -c", "median CPU ms", "best CPU ms", "times import tvm"), rows))


if __name__ == "__main__":
    main()
