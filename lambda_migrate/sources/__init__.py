"""Migrations of another tool, Alembic or Django, run in place under the lease and the fence.

A *source* is where migrations come from. SQL files are one; this package runs the others with the
tool itself, in a child process, so that neither ``env.py`` nor an app has to change.

::

    parent (the holder)                          child (`lambda_migrate.sources.child`)
      sets the fencing token, reads the
      tool's version table and the
      mirror, closes its connection
      starts the child         -- request -->    imports the tool
                               <-- plan ------   steps and the graph of revisions
      checks deadline, flags,
      lease; publishes progress
                               <-- start -----   before each step, waits for a response
                               -- continue -->   begins: the fence row FOR SHARE, compared first
                               <-- applied ---   committed, with its version row and our row
                               <-- done ------
      reconnects, compares the
      version table, updates the
      mirror, completes the lease

The child shares the fence row instead of locking it alone, because migrations open second
connections, which would wait for the first one. A takeover terminates every backend that shares it.
The child exits when its standard input reaches its end, so it does not outlive its parent.

The tool's own version table (``alembic_version``, ``django_migrations``) is the authority. Two
tables mirror it:

- ``revision``: the ancestry of each revision, and what an interrupted step had done. With it a
  holder plans without loading the tool.
- ``satisfied``: the heads that each digest of the code needs. With it code that is older than the
  schema is recognized.

`protocol` has the messages, `fence_queries` what the child sends to PostgreSQL, `database` and
`session` the ports for the engine, `process` the parent's end of the pipes, `child` the child's.
The decisions are in `migrations.revisions`. Only what is in ``alembic_child`` and
``django_child`` imports its tool.
"""
