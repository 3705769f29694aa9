"""``python -m lambda_migrate``: the command line."""

import sys

from lambda_migrate.cli import main

if __name__ == "__main__":
    sys.exit(main())
