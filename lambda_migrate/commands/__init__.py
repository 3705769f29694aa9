"""The commands of lambda-migrate: what each one does, and the document it returns.

The command line and the admin function run the same commands. Each takes a `CommandContext` and its
own options and returns a `CommandResult`: a JSON document and an exit code. The command line
renders the document for a terminal; the admin function returns it unchanged. `registry` lists every
command with its options, which are the keyword arguments of its function, and their help texts.
"""
