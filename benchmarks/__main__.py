"""Run all benchmarks, or those that are named: ``python -m benchmarks [--quick] [NAME ...]``."""

from __future__ import annotations

import argparse
import subprocess
import sys

NAMES = (
    "import_time",
    "plan_quality",
    "training_plan",
    "training",
    "backtest",
    "strong_scaling",
    "shard_time",
    "builds",
    "scaling",
    "decode",
    "decode_processes",
    "llm",
    "cpu_kernels",
    "weights",
    "shardy",
    "shardy_reshard",
    "collectives",
)


def main() -> int:
    """Each in a process of its own, so that none warms up another; the exit code is the first that is not 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones: {', '.join(NAMES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="smaller models, fewer runs")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(NAMES))
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; choose among {', '.join(NAMES)}")
    failed = 0
    for name in options.names or NAMES:
        command = [sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] if options.quick else [])]
        print(f"\n$ python {' '.join(command[1:])}\n", flush=True)
        failed = failed or subprocess.run(command, check=False).returncode
    return failed


if __name__ == "__main__":
    sys.exit(main())
