"""The version of the library, written into each history row."""

__version__: str = "0.2.0"
