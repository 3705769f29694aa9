"""`make profile`: where the time and the memory of a cold start go, phase by phase.

__main__      what to measure; writes docs/reference/profile.md and its picture
measured      the process that is measured: it times each phase and prints its figures
starts        the kinds of cold start, each set up and run
capacity      100, 1,000 and 10,000 starts: what saturates first
page          the page, from the template profile.md, and the picture
relay         a TCP relay that speaks TLS or delays every round trip
"""
