"""All rules. A family is one file here; importing it registers its operators, so a new file needs no other change."""

import importlib
import pkgutil

from spmd.rules.registry import OpCall, check_rule, rule, rule_of

from .call_tir import Readings, kernel_rule
from .linearity import constant_kind

__all__ = ["OpCall", "Readings", "check_rule", "constant_kind", "kernel_rule", "rule", "rule_of"]

for _family in sorted(m.name for m in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_family}")
