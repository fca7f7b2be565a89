"""What the help of each command shows, in an order in which one can follow the other."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "explain": (
        "model.py --mesh tp=4 --profile h100 --html plan.html",
        "model.py --mesh dp=2,tp=2 --spec '*up.weight=P(\"tp\", None)' --name up.weight",
        "model.py --mesh tp=2 --timeline trace.json --traced --save plan.json",
        "plan.json",
    ),
    "plan": ("model.onnx --mesh dp=2,tp=2 --divisible batch=2 -o plan.json", "model.onnx --mesh tp=4 --memory 24GB -o other.json"),
    "shard": ("model.onnx --plan plan.json -o sharded/",),
    "verify": ("model.py --mesh tp=2",),
    "scaling": ("model.onnx --profile h100 --workers 1,2,4,8 --svg scaling.svg",),
    "compare": ("plan.json other.json",),
    "weights": ("--plan plan.json --from checkpoint/ --to weights/",),
    "run": ("-n 2 script.py",),
    "doctor": ("--quick",),
}
"""The arguments of each command."""
_SHOWN = ("explain", "plan", "shard", "compare", "scaling", "run")


def of_command(name: str) -> str:
    """The examples of one command."""
    return "\n".join(["examples:", *(f"  python -m spmd {name} {arguments}" for arguments in EXAMPLES[name])])


def of_all() -> str:
    """One example for each of those that are used most."""
    return "\n".join(["examples:", *(f"  python -m spmd {name} {EXAMPLES[name][0]}" for name in _SHOWN)])
