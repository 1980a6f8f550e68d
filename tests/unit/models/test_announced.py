"""What an endpoint's headers announce: which shapes are believed, and what knowing a limit is worth against feeling for it."""

from collections import deque
from typing import NamedTuple

import pytest

from runtime.models.endpoints.announced import LEAST_TOKENS, MOST, Announced, announced_in
from runtime.models.endpoints.endpoint import Declared, Loss
from runtime.models.endpoints.lane import Lane, Ticket
from runtime.models.endpoints.sharing import Sharing
from runtime.models.server.limits import Denied, Gate, Limits, Pass

OPENAI = {
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-limit-tokens": "2000000",
    "x-ratelimit-remaining-requests": "9999",
    "x-ratelimit-remaining-tokens": "1999984",
    "x-ratelimit-reset-requests": "6ms",
    "x-ratelimit-reset-tokens": "0s",
}
GROQ = {
    "x-ratelimit-limit-requests": "14400",
    "x-ratelimit-limit-tokens": "6000",
    "x-ratelimit-remaining-requests": "14370",
    "x-ratelimit-remaining-tokens": "5997",
    "x-ratelimit-reset-requests": "2m59.56s",
    "x-ratelimit-reset-tokens": "7.66s",
}
AZURE_UNKNOWN = {
    "x-ratelimit-limit-tokens": "-1",
    "x-ratelimit-remaining-tokens": "-1",
    "x-ratelimit-reset-tokens": "0",
}


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        (OPENAI, Announced(10_000, 2_000_000)),
        (GROQ, Announced(14_400, 6_000)),
        (AZURE_UNKNOWN, None),
        ({"x-ratelimit-limit-requests": "60"}, Announced(60, None)),
        ({"x-ratelimit-limit-requests": "0", "x-ratelimit-limit-tokens": "150000"}, Announced(None, 150_000)),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, None),
        ({"retry-after": "20"}, None),
        ({}, None),
    ],
)
def test_the_limits_of_a_minute_are_read_as_providers_send_them(
    headers: dict[str, str], found: Announced | None
) -> None:
    assert announced_in(headers) == found


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "-1", "nan", "inf", "1e9", "60.5", "60, 60", "60;w=60", "0x10", "6_0", "٣", "many", "None"),
        *(str(MOST + 1), "9" * 400),
    ],
)
@pytest.mark.parametrize("what", ["requests", "tokens"])
def test_nonsense_says_nothing(what: str, text: str) -> None:
    assert announced_in({f"x-ratelimit-limit-{what}": text}) is None


def test_a_limit_that_would_hold_one_prompt_for_hours_says_nothing() -> None:
    assert announced_in({"x-ratelimit-limit-tokens": str(LEAST_TOKENS - 1)}) is None
    assert announced_in({"x-ratelimit-limit-tokens": str(LEAST_TOKENS)}) == Announced(None, LEAST_TOKENS)


def test_what_is_announced_only_slows_down() -> None:
    declared = Declared(8, 100, None)

    assert declared.within(Announced(1_000_000, 5_000)) == Declared(8, 100, 5_000)
    assert declared.within(Announced(50, None)) == Declared(8, 50, None)


def test_a_limit_that_is_raised_counts_from_then_on_and_models_of_one_endpoint_keep_to_the_strictest() -> None:
    lane: Lane[str] = Lane(Declared(8))
    lane.hear("large", Announced(60, None))
    lane.hear("small", Announced(600, 9_000))
    assert lane.tell().declared == Declared(8, 60, 9_000)

    lane.hear("large", Announced(120, None))
    assert (lane.urgent, lane.tell().declared) == (True, Declared(8, 120, 9_000))
    lane.hear("large", Announced(120, None))
    assert not lane.changed, "it is no news"


def test_the_book_keeps_to_the_strictest_of_what_hosts_heard_last() -> None:
    sharing, lanes = Sharing(), {name: Lane[str](Declared(8)) for name in "ab"}

    def exchange(name: str) -> Declared:
        sharing.exchange(name, {"e": lanes[name].tell()}, 0.0)
        return sharing._shared["e"].endpoint.declared

    lanes["a"].hear("m", Announced(60, None))
    assert exchange("a") == Declared(8, 60)
    lanes["b"].hear("m", Announced(600, None))
    assert exchange("b") == Declared(8, 60)
    lanes["a"].hear("m", Announced(600, None))
    assert exchange("a") == Declared(8, 600)


def test_a_call_that_left_before_the_limit_was_known_pays_when_it_lands() -> None:
    sharing = Sharing()
    lane: Lane[str] = Lane(Declared(8))
    first, second = Ticket[str]("run", 9_000), Ticket[str]("run", 1)
    lane.enter(first)
    lane.apply(sharing.exchange("a", {"e": lane.tell()}, 0.0)["e"], 0.0)
    assert lane.grant(0.0) == [first]
    lane.hear("m", Announced(None, 60_000))
    lane.enter(second)
    lane.apply(sharing.exchange("a", {"e": lane.tell()}, 0.0)["e"], 0.0)
    lane.landed(first, 9_000, answered=True)

    assert lane.grant(0.0) == []
    assert lane.grant(9.0) == [second]


class Seen(NamedTuple):
    """What the endpoint let through, second by second, and how often it refused."""

    let_through: list[int]
    refused: int


def hosts_at(limits: Limits, *, hosts: int = 2, callers: int = 50, seconds: int = 150) -> Seen:
    """Hosts whose callers ask again as soon as they were answered, at a server with these limits; in time moved by hand."""
    tick_s, reply_ticks, held, billed = 0.02, 25, 500, 300
    gate, sharing = Gate(limits), Sharing()
    lanes = [Lane[str](Declared(256)) for _ in range(hosts)]
    flying = deque[tuple[int, Lane[str], Ticket[str], Pass]]()
    seen, refused = [0] * seconds, 0
    for lane in lanes:
        for _ in range(callers):
            lane.enter(Ticket("run", held))
    for tick in range(int(seconds / tick_s)):
        now_s = tick * tick_s
        while flying and flying[0][0] <= tick:
            _, lane, ticket, let_in = flying.popleft()
            gate.settle(let_in, billed)
            gate.leave()
            if (announced := announced_in(gate.headers(now_s))) is not None:
                lane.hear("m", announced)
            lane.landed(ticket, billed, answered=True)
            lane.enter(Ticket("run", held))
        for number, lane in enumerate(lanes):
            if lane.urgent or tick % 5 == number:
                lane.apply(sharing.exchange(str(number), {"e": lane.tell()}, now_s)["e"], now_s)
            for ticket in lane.grant(now_s):
                entered = gate.enter(now_s, held)
                if isinstance(entered, Denied):
                    refused += 1
                    lane.lost(ticket, Loss("limited", ticket.round, ticket.full, entered.wait_s))
                    lane.enter(Ticket("run", held))
                else:
                    seen[int(now_s)] += 1
                    flying.append((tick + reply_ticks, lane, ticket, entered))
    return Seen(seen, refused)


@pytest.mark.parametrize(
    ("rpm", "tpm", "a_minute", "most_refused"),
    [(600, None, 600, 0), (60, None, 60, 0), (None, 180_000, 600, 2), (None, 30_000, 100, 2), (60, 30_000, 60, 0)],
)
def test_an_announced_limit_is_used_more_than_a_hidden_one_and_hardly_ever_refuses(
    rpm: int | None, tpm: int | None, a_minute: int, most_refused: int
) -> None:
    """Used: in the minute from 75 s on, when both are found. Calls that are held for more than they bill leave some tokens
    unused, and the first ones left before the limit was known."""
    told, hidden = (hosts_at(Limits(rpm, tpm, announced=announced)) for announced in (True, False))

    assert sum(told.let_through[75:135]) > max(0.9 * a_minute, sum(hidden.let_through[75:135]))
    assert told.refused <= most_refused
    assert tpm is not None or told.refused < hidden.refused
