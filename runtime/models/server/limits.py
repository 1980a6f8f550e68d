"""Owns the rate limits of the server: who may ask now, and when the others may come again. Pure: it is told the time."""

import math
from collections import deque
from dataclasses import dataclass

from runtime.errors import ConfigError

MINUTE_S = 60.0
CROWDED_S = 0.1
"""How long those are told to wait who found no place: nobody knows when one gets free."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server lets through, all its models together.

    Counted exactly: in no window of that length are more requests or tokens let through. Refused requests count for nothing.
    A request counts for the tokens of its prompt and of the limit on its reply, where it names one, until it is answered;
    then for what it was billed.

    Args:
        requests_per_minute: None for no limit.
        tokens_per_minute: prompt and reply together; None for no limit.
        max_parallel: requests at once; None for no limit.
        announced: whether every answer tells the limits and what is left of them in `x-ratelimit-*` headers. They speak of a
            minute, so another window is not told.
        window_s: the length of the "minute", in seconds; shorter ones make tests of patient clients quick.

    Raises:
        ConfigError: a limit below 1, or a window that is not above 0.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_parallel: int | None = None
    announced: bool = True
    window_s: float = MINUTE_S

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute", "max_parallel"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value}: a limit is 1 or more; leave it out for none")
        if not (math.isfinite(self.window_s) and self.window_s > 0):
            raise ConfigError(f"window_s={self.window_s}: give seconds, more than 0")


@dataclass(slots=True, eq=False)
class Pass:
    """One request that was let through."""

    at_s: float
    tokens: int
    counts: bool = True
    """Whether it still lies in the window."""


@dataclass(frozen=True, slots=True)
class Denied:
    """Why a request was not let through."""

    kind: str
    """`requests`, `tokens` or `parallel`."""
    text: str
    wait_s: float | None
    """When to come again; None where no waiting helps."""

    @property
    def headers(self) -> dict[str, str]:
        """The wait, rounded up: in whole seconds and in milliseconds."""
        if self.wait_s is None:
            return {}
        return {"retry-after": str(math.ceil(self.wait_s)), "retry-after-ms": str(math.ceil(self.wait_s * 1000))}


class Gate:
    """Lets requests through as `Limits` allow."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.in_flight = 0
        self._passes: deque[Pass] = deque()
        self._tokens = 0

    def enter(self, now_s: float, tokens: int) -> Pass | Denied:
        """Let a request through or not. Whoever is let through has to `leave` at its end.

        Args:
            now_s: a time that never runs backwards.
            tokens: the most it will count for, as far as it says.
        """
        self._forget(now_s)
        limits = self.limits
        if limits.max_parallel is not None and self.in_flight >= limits.max_parallel:
            return Denied("parallel", f"{limits.max_parallel} requests at once are allowed", CROWDED_S)
        if limits.requests_per_minute is not None and len(self._passes) >= limits.requests_per_minute:
            oldest = self._passes[len(self._passes) - limits.requests_per_minute]
            text = f"limit {limits.requests_per_minute} requests a minute, used {len(self._passes)}"
            return Denied("requests", text, oldest.at_s + limits.window_s - now_s)
        if limits.tokens_per_minute is not None and self._tokens + tokens > limits.tokens_per_minute:
            text = f"limit {limits.tokens_per_minute} tokens a minute, used {self._tokens}, requested {tokens}"
            return Denied("tokens", text, self._wait_for_tokens_s(now_s, tokens))
        self.in_flight += 1
        found = Pass(now_s, tokens)
        self._passes.append(found)
        self._tokens += tokens
        return found

    def settle(self, found: Pass, tokens: int) -> None:
        """Count what was billed instead of what was announced."""
        if found.counts:
            self._tokens += tokens - found.tokens
            found.tokens = tokens

    def leave(self) -> None:
        """Give the place of one request back."""
        self.in_flight -= 1

    def headers(self, now_s: float) -> dict[str, str]:
        """The limits and what is left of them, as OpenAI's API tells it; empty where they are not announced."""
        self._forget(now_s)
        found: dict[str, str] = {}
        if not self.limits.announced or self.limits.window_s != MINUTE_S:
            return found
        reset_s = self._passes[-1].at_s + self.limits.window_s - now_s if self._passes else 0.0
        for what, limit, used in (
            ("requests", self.limits.requests_per_minute, len(self._passes)),
            ("tokens", self.limits.tokens_per_minute, self._tokens),
        ):
            if limit is not None:
                found[f"x-ratelimit-limit-{what}"] = str(limit)
                found[f"x-ratelimit-remaining-{what}"] = str(max(0, limit - used))
                found[f"x-ratelimit-reset-{what}"] = f"{math.ceil(reset_s * 1000)}ms"
        return found

    def _forget(self, now_s: float) -> None:
        while self._passes and self._passes[0].at_s + self.limits.window_s <= now_s:
            old = self._passes.popleft()
            old.counts = False
            self._tokens -= old.tokens

    def _wait_for_tokens_s(self, now_s: float, tokens: int) -> float | None:
        limit = self.limits.tokens_per_minute or 0
        if tokens > limit:
            return None
        left = self._tokens
        for found in self._passes:
            left -= found.tokens
            if left + tokens <= limit:
                return found.at_s + self.limits.window_s - now_s
        return None
