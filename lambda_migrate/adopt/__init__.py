"""Takes over the migrations of another tool: its files, and which of them it has applied.

`tool_formats` describes, tool by tool, where its files are and how they are read; the description
of its history table is in `postgresql.other_tools`, under the same name. `detect` chooses the tool
by both. `convert` writes its scripts under the markers of this library and keeps their text.
`adoption` is the result: the new files, and the record of it (``adoption.json`` beside them), by
which a second run continues an interrupted one and ``--undo`` removes exactly what was written.
What the tool has applied is imported by the same code as `baseline`, under lease and fence.
"""
