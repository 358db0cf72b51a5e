"""`python -m reference_models`, the same as `i2srm`."""

import sys

from reference_models.cli import main

sys.exit(main())
