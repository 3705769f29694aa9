"""The engine: one cold start, from the first read of the lease table until requests are served.

::

    lambda_migrate.first_check.FirstCheck             read; serve if the schema is ready
    lambda_migrate.runner.MigrationRunner.ensure()    otherwise continue, once for each process
      check.Check                                     the same reading, decoded
      cold_start.ColdStart                            otherwise decide and act until it is
        decider.Decider    ─ lease.decision.decide    Serve | Refuse | BlockByFlags | Wait | Acquire
        holder.LeaseSession                           Acquire: the lease, renewed while it is held,
          apply.apply_pending                         and the database under its fencing token
        inspection.inspect_database                   Acquire in mode ``require``: only read

`Check` reads the lease table and reports the result of the whole check. `ColdStart` acts: it waits,
acquires, migrates or inspects. `Decider` remembers what was read so far and calls `decide`, a pure
function.

Migrations of another tool run in the same loop: `sources` opens the database, and the tool applies
each in a child process; `revisions` rolls them back and dry-runs them. `requirement_inspection`
reads the tables of a tool that migrates the database by itself (``ready_when``).

`operations.Operations` is what operators' commands do under the same lease: `rollback` runs down
scripts, `dry_run` runs migrations without committing them, `status` reads and compares.
`target.Target` holds everything that a runner works on. `flags` are feature flags that can hold
migrations back, and `flag_gate` applies them. `failure` describes a failed attempt for the other
instances.

The engine reaches DynamoDB and PostgreSQL only through the ports ``lease.store`` and
``postgresql.ports``, so that everything here also runs on the fakes of `lambda_migrate.testing`.
"""
