"""`make bench`: every promised ratio, measured side by side with what it is a ratio to.

__main__      which rows to measure; writes the report and says by its exit code what was missed
stage         the engines, the databases, and the peers' projects on disk
peers         how each peer is set up, the way its own documentation tells
migrations    what all of them apply: the same SQL
processes     one process or hundreds, and what the kernel says they used
figures       medians, ratios of pairs, slopes
findings      a figure, the bar beside it, and the verdict
...           one module for each row of the table
report        JSON, the page, the charts and docs/reference/benchmarks.md
"""
