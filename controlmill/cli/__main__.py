"""`python -m controlmill.cli`, for where the console script is not on the path."""

import sys

from controlmill.cli.main import main

sys.exit(main())
