"""Random schedules of cold starts and faults, from a seed; checks the library's invariants.

`schedule` is what happens, `run` makes it happen on the servers of a `worker`, with the faults of
`postgresql_proxy` and `dynamodb_proxy` between them and the processes of `process`; `invariants`
says what must hold of the `evidence`.
"""
