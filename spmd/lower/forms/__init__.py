"""Operators on a factor that they have to see whole: what each worker computes, and what it exchanges.

A family is one file here; importing it registers its forms, so a new file needs no other change.
"""

import importlib
import pkgutil

from .context import FORMS, FormContext, form, run_form

__all__ = ["FORMS", "FormContext", "form", "run_form"]

for _family in sorted(m.name for m in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_family}")
