"""Seats spread over hosts: the same run as together, and a host that is lost costs a call and never the run."""

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from benchmarks.speed.topologies import SHAPES
from benchmarks.tasks import companies
from policies import StrategyAuction
from runtime import Runtime
from runtime.agents.agent import Agent
from runtime.agents.tools import Tool
from runtime.bank.client import Parts, Verdicts
from runtime.bank.live import Life
from runtime.budget import Budget
from runtime.errors import ConfigError, HostLost
from runtime.host import Host
from runtime.messages import Part as Subtask
from runtime.messages import Plan, Report, Verdict, reply_json
from runtime.models.base import ChatReply, ChatRequest, ToolCall, prompt_tokens
from runtime.models.catalog import Catalog
from runtime.preflight import RunSpec
from runtime.protocols import Outcome, Team
from runtime.result import RunResult
from runtime.spread import Peers, is_spread
from runtime.task import Task
from runtime.trampoline import nap_s
from runtime.usage import Price, Usage
from topologies import Single, Star, Topology

pytestmark = pytest.mark.anyio

N = 3
(TASK,) = companies.generate(1, seed=3)
ENOUGH = Budget(tokens=400_000)


class Near:
    """A host of this process, as another one reaches it: what is asked and said is pickled, as on a way between two.

    Args:
        dies: when it is found lost, by the method and the number of calls before it.
    """

    def __init__(self, i: int, host: Host, dies: Callable[[str, int], bool] = lambda method, n: False) -> None:
        self.name, self.id = f"host {i}", f"id {i}"
        self.host, self.dies = host, dies
        self.asked: list[str] = []

    async def __call__(self, method: str, *args: object) -> Any:
        self.asked.append(str(args[0]) if method == "in_virtual_time" else method)
        await anyio.lowlevel.checkpoint()
        if self.dies(method, len(self.asked) - 1):
            raise HostLost(self.name, "killed")
        told = pickle.loads(pickle.dumps(args))
        return pickle.loads(pickle.dumps(await getattr(self.host, method)(*told)))


class Disk(list[Any]):
    """What live runs committed."""

    async def __call__(self, parts: Parts) -> Verdicts:
        await anyio.lowlevel.checkpoint()
        for part in parts:
            self.extend(part)
        return [None] * len(parts)


def hosts(models: dict[str, Any] | None = None, **more: Any) -> list[Near]:
    return [Near(i, Host(Catalog(models), Disk(), own_process=False), **more) for i in range(N)]


async def virtual(near: Sequence[Near], spec: RunSpec, home: int = 0, *, spread: bool = True) -> RunResult:
    (body,) = await near[home].host.run_virtual([spec], Peers(home, near) if spread else None)
    return RunResult.from_json(body)


async def live(near: Sequence[Near], spec: RunSpec, *, spread: bool = True) -> RunResult:
    body = await near[0].host.run_live(spec, Life(1, [], []), False, Peers(0, near) if spread else None)
    return RunResult.from_json(body)


def run_of(topology: Topology, budget: Budget = ENOUGH, task: Task = TASK, *, live: bool = False) -> RunSpec:
    return RunSpec("run", topology, task, budget, 5, "0" * 64, live)


SHIPPED = [shape() for shape in SHAPES] + [Star(3, model=StrategyAuction("sim/small", "sim/large")), Single(fill=True)]


@pytest.mark.parametrize("tokens", [20_000, 400_000])
@pytest.mark.parametrize("topology", SHIPPED, ids=lambda topology: topology.name)
async def test_a_virtual_run_is_the_same_spread_and_together_wherever_its_home_is(
    topology: Topology, tokens: int
) -> None:
    near, spec = hosts(), run_of(topology.with_model("sim/small"), Budget(tokens=tokens))

    together = await virtual(near, spec, spread=False)
    assert [one.asked for one in near] == [[], [], []]
    spread = [await virtual(near, spec, home) for home in range(N)]

    assert {result.to_json() for result in spread} == {together.to_json()}
    seats = len({a.seat for a in together.attempts})
    assert sum(len(one.asked) for one in near) > 0 or seats == 1


async def test_each_seat_has_a_host_of_its_own_as_long_as_there_are_some() -> None:
    near = hosts()

    result = await virtual(near, run_of(Star(4, model="sim/small")), home=1)

    calls = [
        [a.seat for a in result.attempts].count(seat) for seat in ("planner", *(f"executor[{i}]" for i in range(4)))
    ]
    assert calls == [1] * 5
    assert [len(one.asked) for one in near] == [2, 0, 2], "seats 2 and 5 by the next but one, 0 and 3 by home, 1 and 4"


class Slow:
    """Naps twice on its way, off the grid of whole seconds."""

    name, virtual, shrinkable, naps, window_tokens = "m", True, True, True, 1_000_000
    price: Price | None = Price(2, 3)

    def __init__(self, *, virtual: bool = True) -> None:
        self.virtual = virtual

    def bound(self, request: ChatRequest) -> Usage:
        return Usage(prompt_tokens(request), request.max_tokens)

    async def complete(self, request: ChatRequest) -> ChatReply:
        if self.virtual:
            await nap_s(0.25)
            await nap_s(1.5 + request.seed % 3)
        else:
            await anyio.lowlevel.checkpoint()
        return ChatReply(reply_json(self.says(request)), Usage(prompt_tokens(request), 30))

    def says(self, request: ChatRequest) -> Any:
        if request.reply == "plan":
            return Plan((Subtask("a"), Subtask("b")))
        return Verdict("accept", "42") if request.reply == "verdict" else Report("42")


class Pair(Topology):
    """Two seats, of which the second is asked; home has the first."""

    def __init__(self, far: Agent) -> None:
        super().__init__("Pair", {"home": Agent("executor", model=far.model), "far": far})

    async def solve(self, task: Task, team: Team) -> Outcome:
        return await team.ask("far", task)


class Faulty(Slow):
    """A user's model with a fault in it."""

    def says(self, request: ChatRequest) -> Any:
        raise KeyError("no such thing")


@pytest.mark.parametrize("seconds", [2, 5, 100])
async def test_a_deadline_comes_at_the_same_instant_of_virtual_time(seconds: int) -> None:
    near = hosts({"m": Slow()})
    spec = run_of(Star(4, model="m"), Budget(seconds=seconds, calls=50), Task("How many?"))

    assert (await virtual(near, spec)).to_json() == (await virtual(near, spec, spread=False)).to_json()


@pytest.mark.parametrize("is_virtual", [True, False])
async def test_a_fault_in_a_model_is_told_as_it_is_at_home(is_virtual: bool) -> None:
    near = hosts({"m": Faulty(virtual=is_virtual)})
    run = virtual if is_virtual else live
    spec = run_of(Pair(Agent("executor", model="m")), live=not is_virtual)

    results = [await run(near, spec, spread=spread) for spread in (True, False)]

    assert [result.reason for result in results] == ["seat far raised KeyError: 'no such thing'"] * 2
    assert sum(len(one.asked) for one in near) == 1


@pytest.mark.parametrize("nth", range(4))
async def test_a_virtual_run_that_loses_a_host_on_the_way_is_the_same_run(nth: int) -> None:
    def dies(method: str, n: int) -> bool:
        return n >= nth

    spec = run_of(Star(6, rounds=2, model="sim/small"))
    together = await virtual(hosts(), spec, spread=False)
    near = hosts()
    near[1].dies = dies

    spread = await virtual(near, spec)

    assert spread.to_json() == together.to_json()
    assert len(near[1].asked) == nth + 1, "once it is found lost, it is not asked again"
    await virtual(near, spec)
    assert len(near[1].asked) == nth + 1, "nor in the next run"


async def test_a_live_call_that_is_lost_with_its_host_is_charged_whole_and_made_elsewhere() -> None:
    near = hosts({"m": Slow(virtual=False)})
    near[1].dies = lambda method, n: True

    result = await live(near, run_of(Star(2, model="m"), live=True))

    assert (result.status, result.disturbed) == ("completed", True)
    lost = [(a.seat, a.step, a.try_) for a in result.attempts if a.state == "charged_max"]
    assert lost == [("executor[0]", 0, 0)]
    assert [(a.state, a.try_) for a in result.attempts if a.seat == "executor[0]"] == [
        ("charged_max", 0),
        ("settled", 1),
    ]
    assert result.spend.total.tokens == sum(a.input_tokens + a.output_tokens for a in result.attempts)
    assert len(near[1].asked) == 1
    assert near[2].asked.count("complete") == 2, "its own and the one that was lost"


def double(n: int) -> str:
    return str(2 * n)


class Handy(Slow):
    """Uses its tool once, then answers with what it saw."""

    def says(self, request: ChatRequest) -> Any:
        return Report(request.messages[-1].content.split("\n")[1])

    async def complete(self, request: ChatRequest) -> ChatReply:
        if request.messages[-1].role != "tool":
            await anyio.lowlevel.checkpoint()
            call = ToolCall("1", "double", '{"n": 21}')
            return ChatReply("", Usage(prompt_tokens(request), 5), "tool_calls", (call,))
        return await super().complete(request)


def handy(*, virtual: bool) -> Topology:
    tool = Tool("double", "Doubles.", double, {}, usd="0.01", virtual=virtual)
    return Pair(Agent("executor", model="m", tools=(tool,)))


@pytest.mark.parametrize("is_virtual", [True, False])
async def test_a_tool_is_used_where_its_seat_works(is_virtual: bool) -> None:
    near, run = hosts({"m": Handy(virtual=is_virtual)}), virtual if is_virtual else live
    spec = run_of(handy(virtual=is_virtual), Budget(tokens=9_000, usd=1, tool_calls=3), live=not is_virtual)

    spread, together = await run(near, spec), await run(near, spec, spread=False)

    assert (spread.answer, together.answer) == ("42", "42")
    assert near[1].asked == ["complete", "use", "complete"]
    assert spread.spend.total == together.spend.total
    assert spread.spend.total.tool_calls == 1


async def test_a_live_tool_that_is_lost_with_its_host_is_told_and_not_repeated() -> None:
    near = hosts({"m": Handy(virtual=False)})
    near[1].dies = lambda method, n: method == "use"

    result = await live(near, run_of(handy(virtual=False), Budget(tokens=9_000, tool_calls=3), live=True))

    assert (result.answer, result.disturbed) == ("error: HostLost: host 1 is lost: killed", True)
    assert (result.spend.total.tool_calls, near[2].asked) == (1, ["complete"])


async def test_a_host_that_has_not_seen_what_an_endpoint_obeys_is_told() -> None:
    class Learner(Slow):
        """Has to be told before it may be called, as copies of a client that was proved elsewhere do."""

        unproved = True

        def learn(self, field: str) -> None:
            self.unproved = False
            self.learned = field

    host = Host(Catalog({"m": (model := Learner(virtual=False))}), Disk(), own_process=False)

    await host.complete("m", ChatRequest((), 64, 0, "report"), "seat x", "max_tokens")

    assert model.learned == "max_tokens"


# ---- hosts with equipment

GPU = (("GPU", 1.0),)


class Equipped(Pair):
    """The second seat asks for a host with a GPU."""

    def __init__(self, model: str) -> None:
        super().__init__(Agent("executor", model=model, resources={"GPU": 1.0}))


@pytest.mark.parametrize("spread", [True, False])
async def test_a_seat_works_on_the_host_that_has_what_it_asks_for(spread: bool) -> None:
    home, beside, gpu = hosts()

    (body,) = await home.host.run_virtual(
        [run_of(Equipped("sim/small"))], Peers(0, [home, beside] if spread else [], {GPU: gpu})
    )

    assert (gpu.asked, beside.asked, home.asked) == (["complete"], [], [])
    assert (
        RunResult.from_json(body).to_json()
        == (await virtual(hosts(), run_of(Pair(Agent("executor", model="sim/small"))))).to_json()
    )


async def test_a_live_call_that_is_lost_with_the_only_host_for_it_is_made_there_again() -> None:
    home, _, gpu = hosts({"m": Slow(virtual=False)})
    gpu.dies = lambda method, n: n == 0
    spec = run_of(Equipped("m"), live=True)

    body = await home.host.run_live(spec, Life(1, [], []), False, Peers(0, [], {GPU: gpu}))
    result = RunResult.from_json(body)

    assert (result.status, result.answer, result.disturbed, gpu.asked) == ("completed", "42", True, ["complete"] * 2)
    assert [a.state for a in result.attempts] == ["charged_max", "settled"]


async def test_in_this_process_no_seat_can_ask_for_a_host() -> None:
    async with Runtime() as runtime:
        with pytest.raises(ConfigError, match="asks for a host with GPU 1, and hosts are told apart on a cluster only"):
            await runtime.run(Equipped("sim/small"), TASK, budget=ENOUGH)
        assert await runtime.operator.states() == {}


@pytest.mark.parametrize("resources", [{"GPU": 0}, {"": 1}, {"GPU": -1}])
def test_resources_are_names_with_amounts(resources: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="must be names with amounts above 0"):
        Agent("executor", resources=resources)


def test_a_placement_is_one_of_two() -> None:
    assert (is_spread("spread"), is_spread("together")) == (True, False)
    with pytest.raises(ConfigError, match="placement='everywhere' must be one of 'together', 'spread'"):
        Runtime(placement="everywhere")  # type: ignore[arg-type]


async def test_one_host_in_this_process_has_nobody_to_spread_to() -> None:
    async with Runtime(placement="spread") as spread, Runtime() as together:
        results = [
            await on.run(Star(2, model="sim/small"), TASK, budget=ENOUGH, run_id="r") for on in (spread, together)
        ]

    assert results[0] == results[1]
