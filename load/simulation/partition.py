"""What one DynamoDB partition serves in a second, and what it turns away.

An item lives in one partition, which sustains 3,000 read units and 1,000 write units a second, or a
mixture of both in proportion. DynamoDB may serve more for a while out of what went unused in the
last five minutes; AWS calls that best effort, so it is not counted on here. How throttled
requests are chosen is not documented; here a request is served if anything is left in a bucket that
holds what the partition serves in one second, whatever the request then takes out of it.
"""

from __future__ import annotations

from collections import defaultdict

__all__ = ["BUCKET_SECONDS", "CONSISTENT_UNITS", "READ_UNITS", "WRITE_UNITS", "Partition"]

READ_UNITS = 0.5
"""An eventually consistent read of up to 4 KB."""

CONSISTENT_UNITS = 1.0
"""A strongly consistent read of up to 4 KB."""

WRITE_UNITS = 1.0
"""A write of up to 1 KB, whether its condition held or not."""

BUCKET_SECONDS = 1.0


class Partition:
    """A bucket that fills with time, and the requests to it.

    Args:
        read_units: Served in a second if nothing is written.
        write_units: Served in a second if nothing is read.
    """

    def __init__(self, read_units: float, write_units: float) -> None:
        self.read_units = self.write_units = 0.0
        """Served so far: what is paid for. A request that is turned away costs nothing."""
        self.requests = 0
        self.throttled = 0
        self.requested_units_in: defaultdict[int, float] = defaultdict(float)
        """Second -> units requested in it, reads and writes together."""
        self._seconds_a_read_unit = 1 / read_units
        self._seconds_a_write_unit = 1 / write_units
        self._level = BUCKET_SECONDS
        self._at = 0.0

    def serves_read(self, now: float, units: float = READ_UNITS) -> bool:
        """Whether a read is served at ``now``."""
        if not self._serves(now, units, units * self._seconds_a_read_unit):
            return False
        self.read_units += units
        return True

    def serves_write(self, now: float, units: float = WRITE_UNITS) -> bool:
        """Whether a write is served at ``now``."""
        if not self._serves(now, units, units * self._seconds_a_write_unit):
            return False
        self.write_units += units
        return True

    def _serves(self, now: float, units: float, seconds: float) -> bool:
        self.requests += 1
        self.requested_units_in[int(now)] += units
        self._level = min(BUCKET_SECONDS, self._level + now - self._at)
        self._at = now
        if self._level <= 0:
            self.throttled += 1
            return False
        self._level -= seconds
        return True
