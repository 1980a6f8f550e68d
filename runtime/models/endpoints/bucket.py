"""Owns the token bucket: what may start when so many may start a second. Pure: it is told the time."""

import math


class Bucket:
    """Fills at an even rate up to its size, and is drawn from.

    In any time t no more than `most` + `per_s` t is drawn, and, of a cost above `most`, that one cost more.

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
        """How long after the last `fill` a cost may be drawn. One above the size is drawn from a full bucket, as a debt."""
        short = min(cost, self.most) - self.stock
        if short <= 0:
            return 0.0
        return short / self.per_s if self.per_s > 0 else math.inf

    def draw(self, cost: float) -> None:
        """Take out; a negative cost puts back, and what does not go in is lost."""
        self.stock = min(self.most, self.stock - cost)
