"""``python -m stratascope``."""

import sys

from stratascope.cli import main

if __name__ == "__main__":
    sys.exit(main())
