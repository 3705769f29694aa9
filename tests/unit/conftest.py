"""What all unit tests share."""

from __future__ import annotations

import functools

import botocore.loaders

# A client's service model is 0.3 s of JSON, the same for every client of every test.
botocore.loaders.JSONFileLoader.load_file = functools.cache(  # type: ignore[method-assign]
    botocore.loaders.JSONFileLoader.load_file
)
