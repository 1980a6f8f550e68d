"""Owns what is learned of one endpoint's limits from how it answers: how many calls at once, how many a second, and whether
to ask at all. Pure: it is told the time and the outcomes.

A limit is not told, or not truly, so it is felt for. What bounds the calls is either the *window* (calls in flight) or the
*pace* (starts a second), and a refusal is blamed on the one that bound the refused call: where its place was the last one,
on the window; where the endpoint asks for seconds of patience, or refuses although there was room, on the pace. After a
refusal, and after a failure that names a time, nothing starts until the cool-down is over; after such a failure, a refusal that
is blamed on the pace, and an outage, a single call goes ahead and the others follow when it was answered.

Sources: D. Chiu, R. Jain, "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance in Computer Networks",
Computer Networks and ISDN Systems 17(1), 1989 (additive increase, multiplicative decrease). V. Jacobson, "Congestion
Avoidance and Control", SIGCOMM 1988 (slow start, one decrease for each round trip). M. Nygard, "Release It!", 2007 (circuit
breaker).
"""

from collections import deque
from typing import Literal, NamedTuple

from runtime.models.endpoints.announced import Announced

MINUTE_S = 60.0
KEPT_S = 70.0
"""How long starts are remembered: at the end of a minute of patience, what was let through at its beginning still counts."""
START = 8
"""Calls at once before anything is known; TCP begins with ten segments (RFC 6928)."""
HALVED = 0.5
"""What a first refusal leaves of a window that doubled: it may have been too large by nearly that much."""
LESS = 0.9
"""What later refusals leave. Large, because each further one costs a refused call, too."""
SLOWER = 0.95
"""What a refusal leaves of the pace that was let through."""
CLEAN = 100
"""Calls without a refusal before the window or the pace grows by a whole step, so that refusals stay below a hundredth."""
PACE_STEP = 0.01
STEP_MOST = 32
PATIENT_S = 2.0
"""An endpoint that asks for so much means a rate: a place at one gets free any moment."""
PLACE_S = 0.1
"""How long nothing starts after a refusal that is blamed on the window: until some call has ended."""
COOL_S, COOL_MOST_S = 1.0, 30.0
"""First and longest cool-down where the endpoint does not say; it doubles until a call is answered."""
RETRY_AFTER_MOST_S = 120.0
"""An endpoint that asks for more patience than this is asked again all the same: some answer with days."""
FAILURES = 5
"""So many failures with no answer between them open the circuit."""
OPEN_S, OPEN_MOST_S = 1.0, 10.0
GIVE_UP_S = 30.0
"""After so long an outage, who waits is told; one call at a time still asks."""

Kind = Literal["limited", "failed"]


class Declared(NamedTuple):
    """What the specs of an endpoint declare, and its own headers; None: no such limit."""

    max_parallel: int
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def and_also(self, other: "Declared") -> "Declared":
        """The stricter of both, limit by limit."""
        return Declared(
            min(self.max_parallel, other.max_parallel),
            _stricter(self.requests_per_minute, other.requests_per_minute),
            _stricter(self.tokens_per_minute, other.tokens_per_minute),
        )

    def within(self, announced: Announced) -> "Declared":
        """The stricter of this and what the endpoint announces."""
        return self.and_also(Declared(self.max_parallel, *announced))


def _stricter(one: int | None, other: int | None) -> int | None:
    return one if other is None else other if one is None else min(one, other)


class Loss(NamedTuple):
    """A call that was refused for haste, or failed."""

    kind: Kind
    round: int
    """`Endpoint.round` when the call started: of those in flight at once, only the first is news."""
    full: bool
    """Whether its place was the last one."""
    retry_after_s: float | None = None
    text: str = ""


class News(NamedTuple):
    """What happened since the last news."""

    started: int = 0
    answered: int = 0
    """Calls that the endpoint did not refuse for haste and that did not fail."""
    fresh: int = 0
    """Of these, the ones that started in the current round."""
    losses: tuple[Loss, ...] = ()
    in_flight: int = 0
    """Calls in flight now, of all hosts."""
    busy: bool = False
    """Whether callers wait."""


class Endpoint:
    """One endpoint.

    Args:
        declared: what it may be asked at most; the window never passes it.
    """

    def __init__(self, declared: Declared) -> None:
        self.declared = declared
        self.round = 0
        self.pace: float | None = None
        """Learned starts a second; None until a refusal was blamed on haste."""
        self.window = float(min(START, declared.max_parallel))
        self._slow_start = True
        self._window_climb, self._pace_climb = _Climb(), _Climb()
        self._accepted = _Log()
        self._quiet_until_s = 0.0
        self._probing = False
        self._in_a_row = {"limited": 0, "failed": 0}
        self._open_since_s: float | None = None
        self._open_s = OPEN_S
        self._last_failure = ""

    def places(self, now_s: float) -> int:
        """How many calls may be in flight: none while it cools down, one while it is tried out."""
        if now_s < self._quiet_until_s:
            return 0
        return 1 if self._probing else min(int(self.window), self.declared.max_parallel)

    @property
    def lately(self) -> float:
        """How many calls were let through in the last minute, or a little more."""
        return self._accepted.n

    def wait_s(self, now_s: float) -> float:
        """How long no call may start."""
        return max(0.0, self._quiet_until_s - now_s)

    def outage(self, now_s: float) -> str:
        """Why nobody should wait any more; empty where there is hope."""
        if self._open_since_s is None or now_s - self._open_since_s < GIVE_UP_S:
            return ""
        return f"no answer for {now_s - self._open_since_s:.0f} s; last: {self._last_failure}"

    def tell(self, news: News, now_s: float) -> None:
        """Learn from what happened."""
        self._accepted.add(news.started, now_s)
        if news.answered:
            self._in_a_row["failed"] = 0
        if news.fresh:
            self._recover()
        for loss in news.losses:
            self._lose(loss, now_s)
        if news.fresh and not news.losses:
            self._grow(news)

    def _recover(self) -> None:
        self._probing = False
        self._in_a_row["limited"] = 0
        self._open_since_s, self._open_s = None, OPEN_S

    def _grow(self, news: News) -> None:
        # Only what was in use was tried: a window or a pace that nobody needed proves nothing.
        if 2 * news.in_flight >= self.window:
            more = news.fresh if self._slow_start else self._window_climb.steps(news.fresh, max(CLEAN, self.window))
            tried = max(self.window, 2.0 * news.in_flight)
            self.window = min(float(self.declared.max_parallel), self.window + more, tried)
        if self.pace is not None and news.busy:
            steps = self._pace_climb.steps(news.fresh, max(CLEAN, MINUTE_S * self.pace))
            self.pace *= 1 + PACE_STEP * steps

    def _lose(self, loss: Loss, now_s: float) -> None:
        if loss.kind == "limited":
            self._accepted.add(-1, now_s)
        else:
            self._in_a_row["failed"] += 1
            self._last_failure = loss.text
        is_news = loss.round == self.round
        if loss.kind == "failed":
            tried_in_vain = is_news and self._open_since_s is not None
            if tried_in_vain or (self._open_since_s is None and self._in_a_row["failed"] >= FAILURES):
                self._open(now_s)
        if not is_news:
            return
        self.round += 1
        if loss.kind == "limited":
            cool_s = min(COOL_MOST_S, COOL_S * 2.0 ** self._in_a_row["limited"])
            in_vain = self._in_a_row["limited"] > 0
            self._in_a_row["limited"] += 1
            if loss.retry_after_s is not None:
                cool_s = min(RETRY_AFTER_MOST_S, max(0.0, loss.retry_after_s))
            patient_s = 0.0 if loss.retry_after_s is None else cool_s
            paced = self.pace is not None and not loss.full
            if patient_s >= PATIENT_S or paced or in_vain or self._probing:
                self._slow_down(patient_s, in_vain, now_s)
                self._quiet_until_s = max(self._quiet_until_s, now_s + cool_s)
                return
            self._quiet_until_s = max(self._quiet_until_s, now_s + min(cool_s, PLACE_S))
        elif loss.retry_after_s:
            self._quiet_until_s = max(self._quiet_until_s, now_s + min(RETRY_AFTER_MOST_S, loss.retry_after_s))
            self._probing = True
        self.window = max(1.0, float(int(self.window * (HALVED if self._slow_start else LESS))))
        self._slow_start = False
        self._window_climb = _Climb()

    def _slow_down(self, patient_s: float, in_vain: bool, now_s: float) -> None:
        """Take for the limit what was let through, over the time in which it was and until the endpoint lets through more.

        For a limit that counts the last minute, the age of the oldest start and the patience asked for make up that minute.
        """
        found = SLOWER * self._accepted.rate(now_s, patient_s)
        if self.pace is None or in_vain:
            self.pace = found
        else:
            # What was let through was less than the limit where for some of the time less was asked.
            self.pace = min(self.pace, max(found, LESS * self.pace))
        self._pace_climb = _Climb()
        self._slow_start = False
        self._probing = True

    def _open(self, now_s: float) -> None:
        if self._open_since_s is None:
            self._open_since_s = now_s
        self._quiet_until_s = max(self._quiet_until_s, now_s + self._open_s)
        self._open_s = min(OPEN_MOST_S, 2 * self._open_s)
        self._probing = True
        self.round += 1  # what is in flight now will fail, too, and tells nothing new


class _Climb:
    """Growth after a refusal: by one step in the first clean period, by two in the second, then four."""

    __slots__ = ("_done", "_step")

    def __init__(self) -> None:
        self._done, self._step = 0.0, 1

    def steps(self, clean: int, period: float) -> float:
        """How many steps so many clean calls are worth."""
        made = 0.0
        while clean > 0:
            part = min(float(clean), period - self._done)
            made += self._step * part / period
            clean -= int(part) or 1
            self._done += part
            if self._done >= period:
                self._done, self._step = 0.0, min(STEP_MOST, 2 * self._step)
        return made


class _Log:
    """Starts that were let through, second by second, for a little more than the last minute."""

    __slots__ = ("_seconds", "n")

    def __init__(self) -> None:
        self._seconds: deque[list[float]] = deque()
        self.n = 0.0

    def add(self, n: int, now_s: float) -> None:
        if n and (not self._seconds or now_s - self._seconds[-1][0] >= 1.0):
            self._seconds.append([now_s, 0.0])
        if n:
            self._seconds[-1][1] += n
            self.n += n
        while self._seconds and now_s - self._seconds[0][0] >= KEPT_S:
            self.n -= self._seconds.popleft()[1]

    def rate(self, now_s: float, more_s: float) -> float:
        """Starts a second, over the time since the first one kept, and some more seconds."""
        span_s = (now_s - self._seconds[0][0] if self._seconds else 0.0) + more_s
        return max(1.0, self.n) / max(1.0, span_s)
