"""The rate limits of the server, at a clock moved by hand."""

import random

import pytest

from runtime.errors import ConfigError
from runtime.models.server.limits import CROWDED_S, Denied, Gate, Limits, Pass


def enter(gate: Gate, now_s: float, tokens: int = 0) -> Pass:
    found = gate.enter(now_s, tokens)
    assert isinstance(found, Pass), found
    return found


def denied(gate: Gate, now_s: float, tokens: int = 0) -> Denied:
    found = gate.enter(now_s, tokens)
    assert isinstance(found, Denied)
    return found


def test_a_request_too_many_is_told_when_the_oldest_leaves_the_window() -> None:
    gate = Gate(Limits(requests_per_minute=2))
    enter(gate, 0.0)
    enter(gate, 10.0)

    refused = denied(gate, 30.5)

    assert (refused.kind, refused.wait_s) == ("requests", 29.5)
    assert refused.headers == {"retry-after": "30", "retry-after-ms": "29500"}
    denied(gate, 59.999)
    enter(gate, 60.0)
    assert denied(gate, 60.0).wait_s == 10.0


def test_a_refused_request_counts_for_nothing() -> None:
    gate = Gate(Limits(requests_per_minute=1, tokens_per_minute=10))
    enter(gate, 0.0, 4)
    for _ in range(100):
        denied(gate, 1.0, 4)

    enter(gate, 60.0, 10)


def test_tokens_count_as_announced_until_they_are_known() -> None:
    gate = Gate(Limits(tokens_per_minute=100))
    first = enter(gate, 0.0, 80)
    assert denied(gate, 1.0, 21).wait_s == 59.0

    gate.settle(first, 30)

    enter(gate, 1.0, 70)
    assert denied(gate, 2.0, 1).wait_s == 58.0, "the older one has 30, and 1 is asked for"
    assert denied(gate, 2.0, 31).wait_s == 59.0, "both have to go"


def test_who_spends_more_than_announced_keeps_the_next_ones_waiting() -> None:
    gate = Gate(Limits(tokens_per_minute=100))
    gate.settle(enter(gate, 0.0, 10), 5_000)

    assert denied(gate, 59.0, 1).wait_s == 1.0
    enter(gate, 60.0, 100)


def test_a_bill_that_comes_after_the_window_changes_nothing() -> None:
    gate = Gate(Limits(tokens_per_minute=100))
    late = enter(gate, 0.0, 100)
    enter(gate, 60.0, 100)

    gate.settle(late, 1)

    assert denied(gate, 60.0, 1).kind == "tokens"
    enter(gate, 120.0, 100)


def test_no_waiting_helps_a_request_larger_than_the_limit() -> None:
    refused = denied(Gate(Limits(tokens_per_minute=100)), 0.0, 101)

    assert (refused.wait_s, refused.headers) == (None, {})


def test_a_place_is_free_again_when_somebody_leaves() -> None:
    gate = Gate(Limits(max_parallel=2))
    enter(gate, 0.0)
    enter(gate, 0.0)
    refused = denied(gate, 0.0)
    gate.leave()
    enter(gate, 0.0)

    assert (refused.kind, refused.wait_s, gate.in_flight) == ("parallel", CROWDED_S, 2)
    assert refused.headers == {"retry-after": "1", "retry-after-ms": "100"}


def test_the_headers_tell_what_is_left() -> None:
    gate = Gate(Limits(requests_per_minute=3, tokens_per_minute=100))
    enter(gate, 0.0, 30)
    gate.settle(enter(gate, 15.0, 30), 80)

    assert gate.headers(20.0) == {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "55000ms",
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "55000ms",
    }
    assert gate.headers(75.0)["x-ratelimit-remaining-tokens"] == "100"
    assert Gate(Limits(max_parallel=3)).headers(0.0) == {}
    assert Gate(Limits(requests_per_minute=3, announced=False)).headers(0.0) == {}
    assert Gate(Limits(requests_per_minute=3, window_s=1.0)).headers(0.0) == {}, "the headers speak of a minute"


@pytest.mark.parametrize("seed", range(20))
def test_no_window_ever_holds_more_than_the_limits(seed: int) -> None:
    """Against a list of all that was let through; and whoever comes when told to is let through."""
    draw = random.Random(seed)
    limits = Limits(requests_per_minute=draw.randint(1, 8), tokens_per_minute=draw.randint(20, 200), window_s=10.0)
    gate, now_s, through = Gate(limits), 0.0, list[tuple[float, int]]()
    assert limits.requests_per_minute is not None
    assert limits.tokens_per_minute is not None
    for _ in range(400):
        now_s += draw.choice([0.0, 0.125, 1.0, 5.0])  # exact in binary, so that both sides see the same edges
        tokens = draw.randint(1, 40)
        inside = [n for at_s, n in through if at_s > now_s - 10.0]
        fits = len(inside) < limits.requests_per_minute and sum(inside) + tokens <= limits.tokens_per_minute

        found = gate.enter(now_s, tokens)

        assert isinstance(found, Pass) == fits
        if isinstance(found, Denied) and found.wait_s is not None and found.kind == "requests":
            now_s += found.wait_s
            inside = [n for at_s, n in through if at_s > now_s - 10.0]
            if sum(inside) + tokens <= limits.tokens_per_minute:
                found = enter(gate, now_s, tokens)
        if isinstance(found, Pass):
            billed = draw.randint(0, tokens)
            gate.settle(found, billed)
            through.append((now_s, billed))


@pytest.mark.parametrize(
    "wrong",
    [
        {"requests_per_minute": 0},
        {"tokens_per_minute": -1},
        {"max_parallel": 0},
        {"window_s": 0.0},
        {"window_s": float("nan")},
        {"window_s": float("inf")},
    ],
    ids=str,
)
def test_a_limit_that_lets_nothing_through_is_misuse(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Limits(**wrong)  # type: ignore[arg-type]
