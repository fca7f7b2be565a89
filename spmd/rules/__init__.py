"""How operators can be split: the language of rules, strategies, the table of rules, and what kernels say about themselves."""
