"""Cold starts that wait, in simulated time: the library's own decisions and delays, an own world.

::

    scenario    what happens: how many start and when, how long the migrations take, what goes wrong
    partition   what DynamoDB serves of one item, and what it turns away
    table       the lease table behind that partition: latency, stale reads, clocks that differ
    policies    how long to wait between two reads: the library's way, and others
    world       cold starts, holders and heartbeats as SimPy processes
    figures     a run in numbers
    study       which runs are compared
    measured    what a real storm measured, to hold a prediction against
    picture     the charts
"""
