import os
from pathlib import Path
from urllib.parse import urlsplit

import pg8000.native


def handler(event, context):
    url = urlsplit(os.environ["DATABASE_URL"])
    connection = pg8000.native.Connection(
        url.username, host=url.hostname, port=url.port, database=url.path[1:]
    )
    connection.run("SELECT pg_advisory_lock(4711)")
    connection.run("CREATE TABLE IF NOT EXISTS versions (version text PRIMARY KEY)")
    applied = {row[0] for row in connection.run("SELECT version FROM versions")}
    for path in sorted(Path("migrations").glob("*.sql")):
        if path.stem not in applied:
            connection.run("BEGIN")
            connection.run(path.read_text().partition("-- migrate:down")[0])
            connection.run("INSERT INTO versions VALUES (:version)", version=path.stem)
            connection.run("COMMIT")
    connection.close()
