"""The demo: 100 local Lambda runtimes start at once, and a report of what happened."""
