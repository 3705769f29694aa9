"""Runs in the parent of forked environments: botocore's service descriptions, parsed once.

Each process that makes a DynamoDB client parses some megabytes of JSON, which botocore only reads
afterwards. Forked environments share the result: 16 MB each instead of 25, without which a thousand
of them would not fit. Clients, sessions, credentials and connections are each one's own.
"""

from __future__ import annotations

from typing import Any

from botocore.loaders import JSONFileLoader, Loader

_documents: dict[str, Any] = {}
_original_load = JSONFileLoader.load_file


def _load_once(self: JSONFileLoader, file_path: str) -> Any:
    if file_path not in _documents:
        _documents[file_path] = _original_load(self, file_path)
    return _documents[file_path]


JSONFileLoader.load_file = _load_once  # type: ignore[method-assign]  # the aim of this file

_loader = Loader(include_default_search_paths=True)
for _name in ("endpoints", "partitions", "sdk-default-configuration", "_retry"):
    _loader.load_data(_name)
for _kind in ("service-2", "endpoint-rule-set-1"):
    _loader.load_service_model("dynamodb", _kind)
