"""The demo: 100 local Lambda runtimes start together, and a report of what happened."""
