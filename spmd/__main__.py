"""``python -m spmd --help`` says what there is."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
