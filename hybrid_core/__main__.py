"""`python -m hybrid_core`."""

import sys

from hybrid_core.cli.main import main

sys.exit(main())
