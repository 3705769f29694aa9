"""Random schedules of cold starts and faults, from a seed; checks the library's invariants.

::

    schedule      what happens, as plain data; one seed makes one schedule
    migrations    the migration files of each code version of a schedule
    process       what a forked process does: real invocations of the real library
    relay         the network between a process and PostgreSQL, with faults
    dynamodb      the same for the DynamoDB API: errors, lost responses, stale reads, double grants
    run           one schedule while it runs; returns the evidence
    worker        servers for one schedule at a time
    state_reader  reads database, item and logs, past every fault
    invariants    what must hold of any evidence; pure
    shrink        makes a schedule that violates an invariant smaller while it still does
    report        results.json and report.md
"""
