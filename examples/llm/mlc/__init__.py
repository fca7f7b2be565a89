"""Libraries and weights for MLC-LLM's own runtime, which loads them by the names and forms that its sources say."""
