"""`make bench`: every promised ratio, measured side by side with what it is a ratio to.

Each row of the table is measured with the servers of `workspace`, the compared `tools` with their
migrations, and measured `processes`. `results` holds a figure beside its limit; `report` writes
docs/reference/benchmarks.md.
"""
