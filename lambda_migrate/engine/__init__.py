"""One cold start, from the first read of the lease table until requests are served.

`runner` decides who migrates and waits; `holder` keeps the lease while one environment migrates;
`apply` runs the pending migrations; `operations` is what operators' commands do. Everything here
speaks to DynamoDB and PostgreSQL through ports and can run on fakes.
"""
