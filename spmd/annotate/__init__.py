"""What the user wants: specs by name, and hints inside a model. This stage only records."""

from . import importers
from .hint import hint, remat, unused_hints
from .specs import Specs, annotate, specs_of

__all__ = ["Specs", "annotate", "hint", "importers", "remat", "specs_of", "unused_hints"]
