"""What the commands do and answer, wherever they are asked: at a terminal, or inside the VPC.

Each verb takes a `Site` and its own options, and returns an `Answer`: a document fit for JSON and
an exit code. The command line shows it to a person, the admin function sends it as it is.
"""
