"""Validate a release as in staging: ``python -m load.staging``, or ``make staging``.

::

    generated_orders  production-like data for examples/orders, by seed
    release           the version that serves, and the one that comes
    database          restores data, copies all rows, and compares them later
    checks            a team's own checks of its data
    faults            breaks a small service in each way that an alarm is for
    validation        the steps of a validation
    steps             runs one step after another
    verdicts          go or no-go, and why: pure
    report            report.json, report.md and traffic.svg
"""
