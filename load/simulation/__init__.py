"""Cold starts that wait, in simulated time: the library's own decisions and delays.

::

    scenario  what happens: how many start and when, how long migrations take, what goes wrong
    table     the lease table behind DynamoDB's partition: throttling, stale reads, wrong clocks
    policies  how long to wait between two reads: the library's way, and others
    model     cold starts, holders and heartbeats as SimPy processes
    results   a simulated deployment in numbers
"""
