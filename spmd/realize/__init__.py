"""From a decision to the plan: what each operator does, what moves, and what else could have been."""
