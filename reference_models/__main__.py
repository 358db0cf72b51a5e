"""Entry point of `python -m reference_models`, the same as `i2srm`."""

import sys

from reference_models.cli import main

if __name__ == "__main__":
    sys.exit(main())
