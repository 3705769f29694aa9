"""docs/reference/profile.md and its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from load.bench.charts import write_svg
from load.bench.figures import format_number, format_spread, spread
from load.bench.report import markdown_table
from load.bench.results import Table
from load.profile.measured import PHASES
from load.profile.starts import LEASE_SECONDS

__all__ = ["write_page"]

_CPU, _WALL = 0, 1
_MB = 2**20


def write_page(found: Mapping[str, Any], partition: Table, docs: Path) -> None:
    """Write the page from the figures of a whole run."""
    write_svg(_picture(found["times"]), docs / "images" / "profile.svg")
    template = Path(__file__).with_name("profile.md").read_text()
    tables = {
        "processor": _phase_table(found["times"], "0", _CPU),
        **{
            f"wall_{delay}": _phase_table(found["times"], delay, _WALL) for delay in ("0", "1", "5")
        },
        "allocated": _memory_table(found, 0),
        "peak": _memory_table(found, 1),
        "memray": _memray_table(found["memray"]),
        "limited": _limited_table(found["limited"]),
        "holder": _holder_table(found["holder"]),
        "partition": partition,
    }
    values = {name: markdown_table(table).strip() for name, table in tables.items()}
    machine = "\n".join(f"- {name}: {text}" for name, text in found["machine"].items())
    provisional = found["provisional"]
    page = template.format(
        machine=machine,
        minutes=f"{found['seconds'] / 60:.0f}",
        provisional=f"> **Provisional**: {provisional}.\n\n" if provisional else "",
        lease=LEASE_SECONDS,
        **values,
        **_figures(found),
    )
    (docs / "reference" / "profile.md").write_text(page)


def _values(runs: Sequence[Mapping[str, Sequence[float]]], phase: str, which: int) -> list[float]:
    return [run[phase][which] * 1000 for run in runs]


def _total(runs: Sequence[Mapping[str, Sequence[float]]], which: int) -> list[float]:
    return [sum(each[which] for each in run.values()) * 1000 for run in runs]


def _phase_table(times: Mapping[str, Any], delay: str, which: int) -> Table:
    rows = []
    for phase in PHASES:
        cells = []
        for by_delay in times.values():
            values = _values(by_delay[delay], phase, which)
            cells.append(format_number(spread(values).median) if any(values) else "")
        rows.append((phase, *cells))
    totals = (format_spread(_total(by_delay[delay], which)) for by_delay in times.values())
    return Table(("ms", *times), [*rows, ("**all**", *totals)])


def _memory_table(found: Mapping[str, Any], which: int) -> Table:
    kinds = found["memory"]
    rows = []
    for phase in PHASES:
        sizes = [runs[0][phase] for runs in kinds.values()]
        cells = [f"{max(0.0, each[which] / _MB):.2f}" if any(each) else "" for each in sizes]
        rows.append((phase, *cells))
    return Table(("MB", *kinds), rows)


def _memray_table(counted: Mapping[str, Mapping[str, int]]) -> Table:
    rows = [
        (kind, f"{each['allocations']:,}", format_number(each["peak"] / _MB))
        for kind, each in counted.items()
    ]
    return Table(("whole process, by memray", "allocations", "peak, MB"), rows)


def _limited_table(limited: Mapping[str, Mapping[int, Sequence[float]]]) -> Table:
    sizes = next(iter(limited.values()))
    rows = [
        (kind, *(format_number(each[_WALL] * 1000) for each in by_size.values()))
        for kind, by_size in limited.items()
    ]
    return Table(("wall ms with the share of", *(f"{int(size):,} MB" for size in sizes)), rows)


def _holder_table(holder: Mapping[str, Sequence[int]]) -> Table:
    rows = [(kind, *(f"{number:,}" for number in numbers)) for kind, numbers in holder.items()]
    return Table(("", "connections at most", "locks at most", "item, bytes"), rows)


def _figures(found: Mapping[str, Any]) -> dict[str, str]:
    """The figures that the page's sentences name: milliseconds of CPU by kind and phase."""
    times = found["times"]
    current, one, many = (
        times[kind]["0"] for kind in ("current", "migrating one file", "migrating 1,000 files")
    )

    def cpu(runs: Any, phase: str) -> str:
        return format_number(spread(_values(runs, phase, _CPU)).median)

    return {
        "imports_current": cpu(current, "imports"),
        "tls_current": cpu(current, "TLS"),
        "all_current": format_number(spread(_total(current, _CPU)).median),
        "secret_one": cpu(one, "secret"),
        "imports_one": cpu(one, "imports"),
        "all_one": format_number(spread(_total(one, _CPU)).median),
        "apply_many": format_number(spread(_values(many, "apply", _WALL)).median),
        "apply_many_5": format_number(
            spread(_values(times["migrating 1,000 files"]["5"], "apply", _WALL)).median
        ),
    }


def _picture(times: Mapping[str, Any]) -> Figure:
    """Stacked phases for each kind of start, without waiting and without 1,000 migrations."""
    kinds = [kind for kind in times if "1,000" not in kind]
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    rows = figure.subplots(1, 2, sharey=True)
    for axes, which, title in zip(
        rows, (_CPU, _WALL), ("processor time", "wall time, 1 ms of network delay"), strict=True
    ):
        left = [0.0] * len(kinds)
        for number, phase in enumerate(PHASES):
            if phase == "wait":
                continue
            delay = "0" if which == _CPU else "1"
            values = [spread(_values(times[k][delay], phase, which)).median for k in kinds]
            axes.barh(
                kinds, values, left=left, label=phase, color=f"C{number}" if number < 10 else "k"
            )
            left = [a + b for a, b in zip(left, values, strict=True)]
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("ms")
    rows[0].invert_yaxis()
    figure.legend(*rows[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure
