"""A Llama that knows nothing of parallelism, and a chat that runs it on any number of workers."""
