"""`make bench`: every promised ratio, measured side by side with what it is a ratio to.

A module for each row of the table (storms, takeovers, waiter_calls, fast_path, warm_invocations,
many_migrations) measures with the servers of `workspace`, the compared `tools`, their `migrations`
and measured `processes`. `results` holds a figure beside its limit; `report` writes bench.json and
docs/reference/benchmarks.md.
"""
