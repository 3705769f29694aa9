"""`make profile`: where the time and the memory of a cold start go, phase by phase.

`starts` sets up each kind of cold start and runs `measured_process`, which times its own phases.
"""
