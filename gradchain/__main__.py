"""``python -m gradchain``."""

import sys

from gradchain.studies.cli import main

sys.exit(main())
