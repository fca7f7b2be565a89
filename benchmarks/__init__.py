"""Every figure that the README gives, as a command: ``python -m benchmarks``, or one of them, ``python -m benchmarks.import_time``."""
