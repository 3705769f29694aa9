import os

import psycopg2
from yoyo import get_backend, read_migrations
from yoyo.backends.core import postgresql


def handler(event, context):
    backend = get_backend(os.environ["DATABASE_URL"])
    migrations = read_migrations("migrations")
    with backend.lock():
        backend.apply_migrations(backend.to_apply(migrations))
