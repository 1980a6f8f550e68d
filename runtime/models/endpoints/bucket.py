"""Owns the token bucket: what may start when so many may start a second. Pure: it is told the time."""

import math


class Bucket:
    """Fills at an even rate up to its size, and is drawn from.

    In any time t no more than `most` + `per_s` t is drawn, less what comes back, and, of a cost above `most`, that one cost
    more.

    Args:
        per_s: how fast it fills.
        most: its size.
        stock: what is in it.
        now_s: a time that never runs backwards, here and below.

    Source: J. Turner, "New Directions in Communications", IEEE Communications Magazine 24(10), 1986.
    """

    __slots__ = ("_at_s", "most", "per_s", "stock")

    def __init__(self, per_s: float, most: float, stock: float, now_s: float) -> None:
        self.per_s, self.most, self.stock = per_s, most, stock
        self._at_s = now_s

    def fill(self, now_s: float) -> None:
        """Let come in what came since."""
        if self.stock < self.most:
            self.stock = min(self.most, self.stock + self.per_s * (now_s - self._at_s))
        self._at_s = now_s

    def wait_s(self, cost: float) -> float:
        """How long after the last `fill` a cost may be drawn. One above the size is drawn from a half-full bucket, as a debt.

        From a full one, whatever comes in between the moment it is due and the moment it is drawn would be lost.
        """
        short = (cost if cost <= self.most else self.most / 2) - self.stock
        if short <= 0:
            return 0.0
        return short / self.per_s if self.per_s > 0 else math.inf

    def draw(self, cost: float) -> None:
        """Take out. A negative cost gives back what a call drew and did not use, also above the size: it was let in before."""
        self.stock -= cost

    def pour(self, stock: float) -> None:
        """Put in what somebody had no use for; what does not go in is lost."""
        self.stock = min(max(self.most, self.stock), self.stock + stock)
