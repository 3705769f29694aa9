"""The profile of a cold start: its page, its proxy, and its profiler."""

from __future__ import annotations

import itertools
import socket
from pathlib import Path
from typing import Any

from load.bench.results import Table
from load.profile.__main__ import write_page
from load.profile.measured_process import PHASES, PhaseProfiler
from load.profile.starts import ROUNDS_BY_KIND, count_item_bytes
from load.profile.tcp_proxy import open_proxy


def found() -> dict[str, Any]:
    run = {phase: [0.001, 0.002] for phase in PHASES}
    return {
        "machine": {"processor": "two cores"},
        "provisional": "busy",
        "times": {
            kind: {delay: [run, run] for delay in ("0", "1", "5")} for kind in ROUNDS_BY_KIND
        },
        "memory": {kind: [{phase: [2**20, 2**21] for phase in PHASES}] for kind in ROUNDS_BY_KIND},
        "memray": {kind: {"allocations": 1_000, "peak": 2**20} for kind in ROUNDS_BY_KIND},
        "limited": {"current": {"128": 0.7, "512": 0.2, "1769": 0.06}},
        "holder": {"migrating one file": [1, 12, 345]},
        "seconds": 60.0,
    }


def test_the_page_has_every_phase_and_kind(tmp_path: Path) -> None:
    (tmp_path / "reference").mkdir()
    write_page(found(), Table(("concurrent starts",), [("100",)]), tmp_path)
    text = (tmp_path / "reference" / "profile.md").read_text()
    for part in (
        *PHASES,
        *ROUNDS_BY_KIND,
        "concurrent starts",
        "two cores",
        "**Provisional**: busy",
        "345",
    ):
        assert part in text


def test_a_moment_counts_for_the_innermost_phase() -> None:
    ticks = itertools.count()
    profiler = PhaseProfiler(lambda: (next(ticks),), peaks=False)
    profiler.call("fence", lambda: profiler.call("connect", lambda: None))
    totals = profiler.finish()
    assert {phase: values for phase, values in totals.items() if any(values)} == {
        "rest": [2],
        "fence": [2],
        "connect": [1],
    }


def test_an_items_size_counts_names_and_values() -> None:
    assert count_item_bytes({"M": {"ab": {"S": "xyz"}, "n": {"N": "1234"}}}) == 3 + 1 + 5 + 1 + 4


def test_a_proxy_carries_both_directions() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        open_proxy(server.getsockname()[1], delay_seconds=0.001) as port,
        socket.create_connection(("127.0.0.1", port), timeout=10) as client,
    ):
        peer, _ = server.accept()
        with peer:
            client.sendall(b"question")
            assert peer.recv(100) == b"question"
            peer.sendall(b"answer")
            assert client.recv(100) == b"answer"
