"""Operators on a factor that they have to see whole: what each worker computes, and what it exchanges. One file a family."""

from . import lookup, softmax
from .context import FORMS, FormContext, form, run_form

__all__ = ["FORMS", "FormContext", "form", "lookup", "run_form", "softmax"]
