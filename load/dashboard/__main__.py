"""Draw template.yaml's dashboard: ``python -m load.dashboard [picture.svg]``.

The figures are of a run on this machine that takes two minutes: see `load.dashboard.run`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from load.dashboard.picture import draw
from load.dashboard.run import TABLE, TARGET, live
from load.emulators.cloudwatch import read_alarms
from load.emulators.dashboard import read_dashboard

ROOT = Path(__file__).parents[2]
PERIOD_SECONDS = 5


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m load.dashboard", description=__doc__)
    default = ROOT / "docs" / "images" / "dashboard.svg"
    parser.add_argument("picture", type=Path, nargs="?", default=default)
    picture: Path = parser.parse_args().picture
    values = {"LeaseTable": TABLE, "Target": TARGET}
    template = ROOT / "template.yaml"
    widgets, alarms = read_dashboard(template, values), read_alarms(template, values)
    draw(widgets, alarms, live(), picture, period=PERIOD_SECONDS)
    print(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
