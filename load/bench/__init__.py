"""`make bench`: every promised ratio, measured side by side with what it is a ratio to.

__main__      which rows to measure; writes the report, and exits with 1 if a bar was missed
workspace     the servers, the databases, and the projects on disk
peers         how each peer is set up, as its own documentation says
migrations    what all of them apply: the same SQL
processes     one process or hundreds, and what the kernel says they used
output        how a measured process passes its figures on
figures       medians, ratios, percentiles
results       a figure, the bar beside it, and the verdict
charts        the pictures
...           one module for each row of the table
report        bench.json and docs/reference/benchmarks.md
"""
