"""Validate a release as in staging: ``python -m load.staging``, or ``make staging``.

The release is version 2 of examples/orders: `validation` deploys and rolls it back on generated
data, and `verdicts` decides.
"""
