"""The search: candidates, their costs as tables, and the choice that is proven best. It decides only, and edits no IR."""
