"""The module as values and operators, which the search decides on and lowering follows."""
