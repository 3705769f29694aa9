"""Random schedules of cold starts and faults, from a seed, each held against the library's laws.

::

    schedule   what is to happen, as plain data; one seed makes one schedule
    code       the migration files of each code version of a schedule
    nursery    a warmed, single-threaded parent that forks environments and signals them
    life       what a forked environment does: real invocations of the real library
    relay      the network between an environment and PostgreSQL, which can be made to fail
    dynamodb   the same for the DynamoDB API: errors, lost answers, stale reads, double grants
    lane       servers, and the playing of one schedule on them; returns the evidence
    looking    what is there, past every fault
    laws       what must hold of any evidence; pure
    rounds     many schedules on several lanes
    shrink     a schedule that breaks a law, made smaller while it still does
    report     the picture
"""
