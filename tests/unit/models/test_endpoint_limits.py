"""What is learned of one endpoint from its answers, how hosts share it, and who goes next on a host."""

import pytest

from runtime.models.endpoints.bucket import Bucket
from runtime.models.endpoints.endpoint import (
    FAILURES,
    GIVE_UP_S,
    LESS,
    MINUTE_S,
    RETRY_AFTER_MOST_S,
    SLOWER,
    START,
    Declared,
    Endpoint,
    Kind,
    Loss,
    News,
)
from runtime.models.endpoints.lane import Lane, Ticket
from runtime.models.endpoints.sharing import BURST, SILENCE_S, Flow, Share, Sharing, Told, divide, spread

NO_FLOWS = (None, None)


def used(endpoint: Endpoint, now_s: float, calls: int) -> None:
    """So many calls come back, while the window is full."""
    endpoint.tell(News(calls, calls, calls, (), endpoint.places(now_s), True), now_s)


def lose(
    endpoint: Endpoint, now_s: float, kind: Kind = "limited", *, full: bool = True, patience_s: float | None = None
) -> None:
    """A call that started just now is lost."""
    loss = Loss(kind, endpoint.round, full, patience_s, "down")
    endpoint.tell(News(1, 0, 0, (loss,), endpoint.places(now_s), True), now_s)


def grown(to: int) -> Endpoint:
    endpoint = Endpoint(Declared(1000))
    endpoint.window = float(to)
    return endpoint


# --- the window


def test_the_window_doubles_with_each_round_of_answers_up_to_what_is_declared() -> None:
    endpoint = Endpoint(Declared(max_parallel=50))

    seen = []
    for _ in range(4):
        seen.append(endpoint.places(0))
        used(endpoint, 0, endpoint.places(0))

    assert [*seen, endpoint.places(0)] == [START, 2 * START, 4 * START, 50, 50]


def test_a_window_that_nobody_needed_does_not_grow() -> None:
    endpoint = Endpoint(Declared(50))
    endpoint.tell(News(START, START, START, (), 1, False), 0)

    assert endpoint.places(0) == START


def test_the_first_refusal_halves_the_window_and_later_ones_take_a_tenth() -> None:
    endpoint = grown(64)

    lose(endpoint, 0)
    used(endpoint, 1, 1)
    assert endpoint.places(1) == 32

    lose(endpoint, 2)
    used(endpoint, 3, 1)
    assert endpoint.places(3) == int(32 * LESS)


def test_refusals_of_one_round_trip_count_once() -> None:
    endpoint = grown(64)
    losses = tuple(Loss("limited", endpoint.round, True) for _ in range(30))
    endpoint.tell(News(64, 0, 0, losses, 34, True), 0)
    endpoint.tell(News(0, 0, 0, losses, 4, True), 0.1)

    assert endpoint.places(10) == 32


def test_after_a_refusal_the_window_grows_slowly_and_then_faster() -> None:
    endpoint = grown(64)
    lose(endpoint, 0)

    seen = []
    for _ in range(4):
        used(endpoint, 5, 100)
        seen.append(endpoint.places(5))

    assert seen == [33, 35, 39, 47]


def test_the_window_never_falls_below_one() -> None:
    endpoint = grown(2)
    for now_s in range(20):
        lose(endpoint, 200 * now_s, "failed")
        used(endpoint, 200 * now_s + 100, 1)
        assert endpoint.places(200 * now_s + 100) >= 1


# --- patience


@pytest.mark.parametrize(("asked_s", "kept_s"), [(7.5, 7.5), (86_400, RETRY_AFTER_MOST_S), (-1, 0)])
def test_nothing_starts_until_the_patience_asked_for_is_over(asked_s: float, kept_s: float) -> None:
    endpoint = grown(64)
    lose(endpoint, 100, patience_s=asked_s)

    assert endpoint.wait_s(100) == kept_s
    assert endpoint.places(100 + kept_s) == (1 if kept_s >= 2 else 32)
    if kept_s:
        assert endpoint.places(100 + kept_s - 0.01) == 0


def test_without_a_word_of_patience_it_doubles_until_somebody_is_answered() -> None:
    endpoint, now_s, waits = grown(1), 0.0, []
    lose(endpoint, now_s)
    for _ in range(6):
        now_s += endpoint.wait_s(now_s)
        lose(endpoint, now_s)
        waits.append(endpoint.wait_s(now_s))
    assert waits == pytest.approx([2, 4, 8, 16, 30, 30])

    used(endpoint, now_s + 30, 1)
    lose(endpoint, now_s + 30, full=False)
    assert endpoint.wait_s(now_s + 30) == 1


# --- the pace


def test_what_was_let_through_in_a_minute_becomes_the_pace() -> None:
    endpoint = grown(64)
    for second in range(10):
        endpoint.tell(News(60, 60, 60, (), 64, True), float(second))
    lose(endpoint, 10.0, patience_s=50.0)

    assert endpoint.pace == pytest.approx(SLOWER * 600 / MINUTE_S)


def test_after_a_refusal_for_the_pace_one_call_goes_ahead() -> None:
    endpoint = grown(64)
    used(endpoint, 0, 600)  # the window doubles
    lose(endpoint, 0, patience_s=50.0)

    assert [endpoint.places(at_s) for at_s in (0, 49.9, 50)] == [0, 0, 1]
    used(endpoint, 51, 1)
    assert endpoint.places(51) == 128


def test_a_refusal_is_blamed_on_what_bound_the_call() -> None:
    endpoint = grown(64)
    lose(endpoint, 0, full=True)
    assert endpoint.pace is None, "its place was the last one"

    used(endpoint, 1, 60)
    lose(endpoint, 1, full=True, patience_s=30.0)
    used(endpoint, 31, 1)
    window, pace = endpoint.window, endpoint.pace or 0
    lose(endpoint, 32, full=False)
    assert endpoint.window == window, "there was room, so it was the pace"
    assert (endpoint.pace or 0) < pace


def test_a_refusal_of_the_only_call_is_no_matter_of_places() -> None:
    endpoint = grown(64)
    used(endpoint, 0, 600)
    lose(endpoint, 5)
    lose(endpoint, 7)

    assert endpoint.pace == pytest.approx(SLOWER * 600 / 7)


def test_a_pace_that_is_used_grows_again() -> None:
    endpoint = grown(64)
    used(endpoint, 0, 600)
    lose(endpoint, 0, patience_s=60.0)
    before = endpoint.pace or 0
    used(endpoint, 60, 1_200)

    assert (endpoint.pace or 0) > before


# --- the circuit


def test_failures_in_a_row_open_the_circuit_and_an_answer_closes_it() -> None:
    endpoint = grown(64)
    for _ in range(FAILURES):
        lose(endpoint, 0, "failed")
    assert endpoint.places(0) == 0

    now_s = endpoint.wait_s(0)
    assert endpoint.places(now_s) == 1
    used(endpoint, now_s, 1)
    assert endpoint.places(now_s) > 1


@pytest.mark.parametrize(("asked_s", "kept_s"), [(20.0, 20.0), (86_400.0, RETRY_AFTER_MOST_S)])
def test_a_failure_that_names_a_time_is_waited_for_and_one_call_goes_ahead(asked_s: float, kept_s: float) -> None:
    endpoint = grown(40)
    lose(endpoint, 0.0, "failed", patience_s=asked_s)

    assert (endpoint.wait_s(0.0), endpoint.places(kept_s - 0.1), endpoint.places(kept_s)) == (kept_s, 0, 1)
    assert endpoint.pace is None, "it says nothing about haste"
    used(endpoint, kept_s, 1)
    assert endpoint.places(kept_s) > 1


def test_answers_between_failures_keep_the_circuit_closed() -> None:
    endpoint = grown(64)
    for _ in range(3 * FAILURES):
        lose(endpoint, 0, "failed")
        used(endpoint, 0, 1)

    assert endpoint.places(0) >= 1


def test_as_long_as_the_one_call_fails_the_circuit_stays_open_for_longer_each_time() -> None:
    endpoint = grown(64)
    for _ in range(FAILURES):
        lose(endpoint, 0, "failed")
    waits, now_s = [], 0.0
    for _ in range(5):
        waits.append(endpoint.wait_s(now_s))
        now_s += endpoint.wait_s(now_s)
        lose(endpoint, now_s, "failed")

    assert waits == [1, 2, 4, 8, 10]


def test_calls_that_were_on_their_way_when_the_circuit_opened_do_not_prolong_it() -> None:
    endpoint = grown(64)
    losses = tuple(Loss("failed", number // 20, True) for number in range(40))
    endpoint.tell(News(64, 0, 0, losses, 64, True), 0)

    assert endpoint.wait_s(0) == 1


def test_after_a_long_outage_those_who_wait_are_told_why() -> None:
    endpoint = grown(64)
    for _ in range(FAILURES):
        lose(endpoint, 0, "failed")

    assert endpoint.outage(GIVE_UP_S - 1) == ""
    assert endpoint.outage(GIVE_UP_S) == f"no answer for {GIVE_UP_S:.0f} s; last: down"
    used(endpoint, GIVE_UP_S, 1)
    assert endpoint.outage(GIVE_UP_S) == ""


# --- one host


def lane(places: int, *flows: Flow | None) -> Lane[str]:
    made: Lane[str] = Lane(Declared(64))
    made.apply(Share(places, (*flows, None, None)[:2], 0, 0.0, ""), 0.0)  # type: ignore[arg-type]
    return made


def ticket(lane: Lane[str], run: str, tokens: int = 0) -> Ticket[str]:
    made: Ticket[str] = Ticket(run, tokens)
    lane.enter(made)
    return made


def test_places_go_round_the_runs_and_within_a_run_by_arrival() -> None:
    crowded = lane(0)
    many = [ticket(crowded, "crowd") for _ in range(1000)]
    few = [ticket(crowded, "few") for _ in range(3)]
    crowded.apply(Share(7, NO_FLOWS, 0, 0.0, ""), 0.0)

    assert crowded.grant(0.0) == [many[0], few[0], many[1], few[1], many[2], few[2], many[3]]


def test_who_withdraws_is_not_let_go() -> None:
    quiet = lane(0)
    first, second = ticket(quiet, "a"), ticket(quiet, "a")
    quiet.withdraw(first)
    quiet.apply(Share(5, NO_FLOWS, 0, 0.0, ""), 0.0)

    assert (quiet.grant(0.0), quiet.waiting) == ([second], 0)


def test_starts_keep_to_the_rate_and_what_was_not_sent_does_not_count() -> None:
    slow = lane(10, Flow(2.0, 1.0))
    tickets = [ticket(slow, "a") for _ in range(3)]
    assert slow.grant(0.0) == tickets[:1]
    assert slow.wait_s(0.0) == 0.5

    slow.give_back(tickets[0])
    assert slow.grant(0.0) == tickets[1:2]
    assert slow.grant(0.4) == []
    assert slow.grant(0.5) == tickets[2:]


def test_tokens_that_were_not_used_come_back() -> None:
    slow = lane(10, None, Flow(10.0, 100.0))
    first, second = ticket(slow, "a", 100), ticket(slow, "a", 60)
    assert slow.grant(0.0) == [first]
    slow.landed(first, 40, answered=True)

    assert slow.grant(0.0) == [second]


def test_after_a_refusal_nothing_starts_before_the_next_share() -> None:
    refused = lane(4)
    first, second = ticket(refused, "a"), ticket(refused, "a")
    refused.grant(0.0)
    third = ticket(refused, "a")
    refused.lost(first, Loss("limited", 0, False))
    assert refused.grant(0.0) == []
    refused.tell()
    refused.apply(Share(4, NO_FLOWS, 1, 0.0, ""), 0.0)

    assert refused.grant(0.0) == [third]
    refused.landed(second, None, answered=True)
    assert refused.tell().fresh == 0, "it started before the refusal"


def test_a_host_that_lost_its_last_place_says_at_once_that_it_lives_without() -> None:
    poor = lane(4)
    ticket(poor, "a")
    assert poor.tell().places == 4
    poor.apply(Share(0, NO_FLOWS, 0, 0.0, ""), 0.0)

    assert poor.urgent
    assert (poor.tell().places, poor.urgent) == (0, False)


def test_what_nobody_heard_is_told_again() -> None:
    cut = lane(4)
    call = ticket(cut, "a")
    cut.grant(0.0)
    cut.landed(call, None, answered=True)
    told = cut.tell()
    cut.untell(told)

    assert cut.tell() == told


# --- many hosts


def told(
    places: int,
    in_flight: int,
    waiting: int,
    *,
    most: int = 64,
    started: int = 0,
    rpm: int | None = None,
    rate: float = 0,
) -> Told:
    flow = None if rpm is None else Flow(rate)
    return Told(Declared(most, rpm), places, in_flight, waiting, 1, started, 0, 0, (), (flow, None))


def ask(sharing: Sharing, host: str, told: Told, now_s: float = 0.0) -> Share:
    return sharing.exchange(host, {"e": told}, now_s)["e"]


def test_a_place_is_given_on_only_after_the_other_host_lives_without_it() -> None:
    sharing = Sharing()
    assert ask(sharing, "a", told(0, 0, 50, most=8)).places == 8
    assert ask(sharing, "b", told(0, 0, 50, most=8)).places == 0
    assert ask(sharing, "a", told(8, 8, 42, most=8)).places == 4
    assert ask(sharing, "b", told(0, 0, 50, most=8)).places == 0, "eight are in flight"
    assert ask(sharing, "a", told(4, 6, 42, most=8)).places == 4
    assert ask(sharing, "b", told(0, 0, 50, most=8)).places == 2


def test_a_host_without_demand_gives_all_back() -> None:
    sharing = Sharing()
    ask(sharing, "a", told(0, 0, 50, most=8))
    assert ask(sharing, "a", told(8, 0, 0, most=8)).places == 0
    ask(sharing, "a", told(0, 0, 0, most=8))

    assert ask(sharing, "b", told(0, 0, 50, most=8)).places == 8


def test_what_a_silent_host_had_is_free() -> None:
    sharing = Sharing()
    ask(sharing, "a", told(0, 0, 50, most=8))
    assert ask(sharing, "b", told(0, 0, 50, most=8), SILENCE_S - 1).places == 0
    assert ask(sharing, "b", told(0, 0, 50, most=8), SILENCE_S).places == 8


def test_a_new_book_takes_over_what_hosts_hold_and_begins_slowly() -> None:
    sharing = Sharing()
    assert ask(sharing, "a", told(40, 40, 9)).places == START
    assert ask(sharing, "b", told(0, 0, 9)).places == 0


def test_one_place_goes_round_all_hosts() -> None:
    sharing, held = Sharing(), dict.fromkeys("abc", 0)
    had = dict.fromkeys("abc", 0)
    for turn in range(30):
        host = "abc"[turn % 3]
        held[host] = ask(sharing, host, told(held[host], 0, 5, most=1), float(turn)).places
        had[host] += held[host]
        assert sum(held.values()) <= 1

    assert sorted(had.values()) == [1, 2, 2]


def test_a_declared_rate_is_divided_by_need() -> None:
    sharing, told_rates = Sharing(), dict.fromkeys("ab", 0.0)
    for turn in range(6):
        for host, waiting in (("a", 9), ("b", 9)):
            share = ask(sharing, host, told(0, 0, waiting, rpm=600, rate=told_rates[host]), float(turn))
            flow = share.flows[0]
            assert flow is not None
            told_rates[host] = flow.per_s

    assert told_rates["a"] == pytest.approx(told_rates["b"])
    assert sum(told_rates.values()) * MINUTE_S <= 600


def test_what_may_start_at_once_is_given_out_once_and_a_rate_after_it_was_given_back() -> None:
    sharing = Sharing()
    first = ask(sharing, "a", told(0, 0, 50, rpm=600)).flows[0]
    second = ask(sharing, "b", told(0, 0, 50, rpm=600)).flows[0]

    assert first is not None
    assert first.stock == 600 // BURST
    assert second == Flow(0.0, 0.0)


@pytest.mark.parametrize(
    ("total", "demands", "parts"),
    [
        (10, [(1, 2), (1, 20)], [2, 8]),
        (10, [(1, 20), (3, 20)], [3, 7]),
        (10, [(1, 1), (1, 0), (1, 2)], [4 + 1, 0, 5]),
        (2, [(1, 5), (1, 5), (1, 5)], [1, 1, 0]),
        (0, [(1, 5)], [0]),
    ],
)
def test_places_are_divided_by_weight_and_demand(total: int, demands: list[tuple[int, int]], parts: list[int]) -> None:
    assert divide(total, demands) == parts


def test_a_rate_is_divided_by_weight_and_need() -> None:
    assert spread(9.0, [(1, 1.0), (1, 9.0), (3, 9.0)]) == [1.0, 2.0, 6.0]
    assert spread(9.0, [(1, 1.0), (2, 2.0), (0, 9.0)]) == [3.0, 6.0, 0.0]


def test_a_bucket_lets_a_debt_pass_only_when_it_is_half_full() -> None:
    bucket = Bucket(1.0, 10.0, 10.0, 0.0)
    assert bucket.wait_s(30.0) == 0
    bucket.draw(30.0)
    bucket.fill(20.0)
    assert (bucket.stock, bucket.wait_s(30.0)) == (0.0, 5.0)


def test_what_a_call_did_not_use_comes_back_whole_and_what_nobody_had_a_use_for_up_to_the_size() -> None:
    bucket = Bucket(1.0, 10.0, 10.0, 0.0)
    bucket.draw(8.0)
    bucket.fill(8.0)
    bucket.draw(-8.0)
    assert bucket.stock == 18.0
    bucket.fill(20.0)
    assert bucket.stock == 18.0, "a full bucket does not fill"

    bucket.draw(12.0)
    bucket.pour(9.0)
    assert bucket.stock == 10.0
