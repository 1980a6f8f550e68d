"""Owns what an endpoint's headers announce of its limits: so many requests and tokens a minute. Pure.

Only the limits are read. What is left of them (`x-ratelimit-remaining-*`) is old by the calls in flight when it arrives, and
when it comes back (`x-ratelimit-reset-*`) means the whole limit at some and the next call at others; how long to wait is said
by `Retry-After`. Some count requests by the day there, such as Groq: as a limit of a minute that is far too high and binds
nobody. A header comes from outside, so it can only slow down what is declared, and nonsense says nothing.

Source: OpenAI, "Rate limits", section on headers. LiteLLM's proxy, Groq and Azure send the same names.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

LEAST_REQUESTS, LEAST_TOKENS = 1, 1_000
"""Less is no limit but a mistake: one prompt would wait for hours. Azure says 0 and -1 where it does not know."""
MOST = 10**9
"""More is no limit."""
_WHOLE = re.compile(r"[0-9]{1,10}")


class Announced(NamedTuple):
    """What is allowed a minute; None: not told."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


def announced_in(headers: Mapping[str, str]) -> Announced | None:
    """Read the limits in an answer's headers, whose names are in lower case; None where there are none to be believed."""
    found = Announced(
        _limit(headers.get("x-ratelimit-limit-requests", ""), LEAST_REQUESTS),
        _limit(headers.get("x-ratelimit-limit-tokens", ""), LEAST_TOKENS),
    )
    return None if found == Announced() else found


def _limit(text: str, least: int) -> int | None:
    text = text.strip()
    if _WHOLE.fullmatch(text) is None:
        return None
    return limit if least <= (limit := int(text)) <= MOST else None
