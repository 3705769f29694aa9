"""``python -m lambda_migrate.local.package``."""

from lambda_migrate.local.package.build import main

raise SystemExit(main())
