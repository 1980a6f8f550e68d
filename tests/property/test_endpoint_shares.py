"""Whatever happens in whichever order: what all hosts do together stays within the limits, and nobody starves."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from runtime.models.endpoints.bucket import Bucket
from runtime.models.endpoints.endpoint import MINUTE_S, Declared, Endpoint, Loss, News
from runtime.models.endpoints.lane import Lane, Ticket
from runtime.models.endpoints.sharing import Share, Sharing, Told, divide, spread

ENDS = ("answered", "answered", "answered", "limited", "failed", "cut off")


@dataclass(eq=False)
class Host:
    """A host with at most one message under way, as hosts have."""

    name: str
    declared: Declared
    lane: Lane[str] = field(init=False)
    flying: list[Ticket[str]] = field(default_factory=list)
    letter: Told | Share | None = None
    starts: int = 0

    def __post_init__(self) -> None:
        self.lane = Lane(self.declared)

    def enter(self, run: str) -> None:
        self.lane.enter(Ticket(run, 0))

    def go(self, now_s: float) -> int:
        granted = self.lane.grant(now_s)
        self.flying += granted
        self.starts += len(granted)
        return len(granted)

    def end(self, how: str) -> None:
        ticket = self.flying.pop(0)
        if how in ("limited", "failed"):
            self.lane.lost(ticket, Loss(how, ticket.round, ticket.full, None))  # type: ignore[arg-type]
        else:
            self.lane.landed(ticket, None, answered=how == "answered")

    def post(self, sharing: Sharing, now_s: float) -> None:
        """The next leg of its message."""
        if self.letter is None:
            self.letter = self.lane.tell()
        elif isinstance(self.letter, Told):
            self.letter = sharing.exchange(self.name, {"e": self.letter}, now_s)["e"]
        else:
            self.lane.apply(self.letter, now_s)
            self.letter = None


deeds = st.lists(
    st.tuples(
        st.integers(0, 3), st.sampled_from(["enter", "post", "post", "post", "go", "end", "wait"]), st.integers(0, 5)
    ),
    max_size=300,
)


@given(most=st.integers(1, 30), rpm=st.none() | st.integers(1, 300), n=st.integers(1, 4), deeds=deeds)
def test_hosts_together_keep_to_what_is_declared(most: int, rpm: int | None, n: int, deeds: Any) -> None:
    declared = Declared(most, rpm)
    sharing, hosts = Sharing(), [Host(f"h{i}", declared) for i in range(n)]
    now_s, starts = 0.0, deque[float]()
    for place, deed, figure in deeds:
        host = hosts[place % n]
        if deed == "enter":
            host.enter(f"run-{figure}")
        elif deed == "post":
            host.post(sharing, now_s)
        elif deed == "go":
            starts += [now_s] * host.go(now_s)
        elif deed == "end" and host.flying:
            host.end(ENDS[figure])
        elif deed == "wait":
            now_s += figure

        assert sum(len(host.flying) for host in hosts) <= most
        while starts and starts[0] <= now_s - MINUTE_S:
            starts.popleft()
        # A host may have begun to save up for one start while it waited.
        assert rpm is None or len(starts) <= rpm + n


@given(
    most=st.integers(1, 5),
    crowds=st.lists(st.integers(1, 200), min_size=2, max_size=4),
    rpm=st.none() | st.integers(60, 6000),
)
def test_no_host_and_no_run_with_demand_starves(most: int, crowds: list[int], rpm: int | None) -> None:
    sharing, hosts = Sharing(), [Host(f"h{i}", Declared(most, rpm)) for i in range(len(crowds))]
    for host, crowd in zip(hosts, crowds, strict=True):
        for _ in range(crowd):
            host.enter("crowd")
        host.enter("one")
    now_s = 0.0
    waiting_ones = len(hosts)
    for _ in range(60 * len(hosts)):
        now_s += 1.0
        for host in hosts:
            for _ in range(3):
                host.post(sharing, now_s)
            host.go(now_s)
            while host.flying:
                waiting_ones -= host.flying[0].run == "one"
                host.end("answered")

    assert waiting_ones == 0
    assert all(host.starts >= min(crowd + 1, 10) for host, crowd in zip(hosts, crowds, strict=True))


@given(
    events=st.lists(
        st.tuples(
            st.floats(0, 40),
            st.sampled_from(["answered", "limited", "failed"]),
            st.booleans(),
            st.none() | st.floats(-5, 1e6),
        ),
        max_size=80,
    ),
    most=st.integers(1, 100),
)
def test_the_window_stays_between_one_and_what_is_declared_and_a_cool_down_holds(events: Any, most: int) -> None:
    endpoint, now_s, quiet_until_s = Endpoint(Declared(most)), 0.0, 0.0
    for after_s, how, full, patience_s in events:
        now_s += after_s
        if how == "answered":
            endpoint.tell(News(1, 1, 1, (), endpoint.places(now_s), True), now_s)
        else:
            loss = Loss(how, endpoint.round, full, patience_s)
            endpoint.tell(News(1, 0, 0, (loss,), endpoint.places(now_s), True), now_s)
        quiet_until_s = max(quiet_until_s, now_s + endpoint.wait_s(now_s))

        assert 1 <= endpoint.window <= most
        assert (endpoint.places(now_s) == 0) == (now_s < quiet_until_s)
        assert endpoint.places(quiet_until_s) >= 1
        assert endpoint.pace is None or endpoint.pace > 0


@given(
    per_s=st.floats(0.1, 100),
    most=st.floats(1, 50),
    waits=st.lists(st.floats(0, 5), max_size=100),
)
def test_a_bucket_never_lets_more_through_than_its_size_and_its_rate(
    per_s: float, most: float, waits: list[float]
) -> None:
    bucket, now_s, drawn = Bucket(per_s, most, most, 0.0), 0.0, 0
    for wait_s in waits:
        now_s += wait_s
        bucket.fill(now_s)
        while bucket.wait_s(1.0) == 0:
            bucket.draw(1.0)
            drawn += 1

        assert drawn <= most + per_s * now_s + 1e-6


@given(st.integers(0, 200), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60)), max_size=6))
def test_all_places_are_divided_where_anybody_wants_some(total: int, demands: list[tuple[int, int]]) -> None:
    parts = divide(total, demands)
    wanting = [bool(weight and demand) for weight, demand in demands]

    assert sum(parts) == (total if any(wanting) else 0)
    assert all(want or not part for want, part in zip(wanting, parts, strict=True))
    short = [part < demand for (_, demand), part in zip(demands, parts, strict=True)]
    if any(want and less for want, less in zip(wanting, short, strict=True)):
        assert all(part <= demand for (_, demand), part in zip(demands, parts, strict=True)), "more than was asked for"


@given(st.floats(0, 100), st.lists(st.tuples(st.integers(0, 5), st.floats(0, 60)), max_size=6))
def test_a_rate_is_divided_without_a_rest(total: float, needs: list[tuple[int, float]]) -> None:
    parts = spread(total, needs)

    assert all(part >= 0 for part in parts)
    assert abs(sum(parts) - (total if any(weight for weight, _ in needs) else 0)) < 1e-6
