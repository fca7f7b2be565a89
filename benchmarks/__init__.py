"""Every figure that the README and docs/measured.md give, as a command: ``python -m benchmarks``, or one of them,
``python -m benchmarks.import_time``.
"""
