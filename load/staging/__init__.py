"""A release, rehearsed as in staging: ``python -m load.staging``, or ``make staging``.

=============  ==================================================================
`shop`         production-like data for examples/orders, by seed
`release`      what is rehearsed: the version that serves, the one that comes
`restore`      the database as it is today
`records`      what was in the tables before, and whether it still is
`checks`       a team's own questions to its data
`dry_run`      each pending migration, executed and taken back
`phases`       the storm of the new version, and the way back, under traffic
`faults`       what somebody must be paged for
`rehearsal`    all of these, as `steps`; `stack`, of what is deployed
`verdicts`     go, or no-go, and why: pure
`report`       the same for pipelines; `page`, with `traffic`, for people
=============  ==================================================================
"""
