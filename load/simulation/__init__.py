"""Cold starts that wait, in simulated time: the library's own decisions and delays.

`lease_table` has the scenario and the table behind DynamoDB's partition, `policies` the ways to
wait between two reads, `model` the cold starts as SimPy processes, and their figures.
"""
