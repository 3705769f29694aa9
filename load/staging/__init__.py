"""Validate a release as in staging: ``python -m load.staging``, or ``make staging``.

=============  ==================================================================
`data`         production-like data for examples/orders, by seed
`release`      the version that serves, the one that comes
`database`     the database as it is today
`records`      copies all rows before, compares them after
`checks`       a team's own checks of its data
`dry_run`      each pending migration, executed and rolled back
`faults`       what alarms are for
`validation`   all of these, as `steps`; `stack`, of a deployed stack
`verdicts`     go, or no-go, and why: pure
`report`       report.json and the page
=============  ==================================================================
"""
