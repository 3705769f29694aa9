"""Cold starts that wait, in simulated time: the library's own decisions and delays.

::

    scenario    what happens: how many start and when, how long the migrations take, what goes wrong
    partition   what DynamoDB serves of one item, and what it turns away
    table       the lease table behind that partition: latency, stale reads, clocks that differ
    policies    how long to wait between two reads: the library's way, and others
    model       cold starts, holders and heartbeats as SimPy processes
    figures     a simulated deployment in numbers; `cost`, in dollars
    study       which deployments are compared
    measured    what a real storm measured, to compare with a prediction
    charts      the pictures
"""
