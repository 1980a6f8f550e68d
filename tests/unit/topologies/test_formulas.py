"""The formulas in the topologies' docstrings are what they state, and what a full run measures."""

from copy import copy
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest

from runtime.agents.agent import Agent
from runtime.agents.blocks import read_blocks
from runtime.budget import Budget
from runtime.errors import ConfigError
from runtime.host import run_virtual
from runtime.messages import Part, Plan, Reply, Report, Verdict
from runtime.models.base import ChatRequest
from runtime.models.scripted import ScriptedModel
from runtime.nesting import agents_of
from runtime.preflight import RunSpec, prepare
from runtime.protocols import OUTSIDE
from runtime.result import RunResult
from runtime.task import Task
from topologies import Cascade, Chain, Graph, Hybrid, Independent, Mesh, Single, Star, Topology, Tree
from topologies.wiring import Node


def reply(request: ChatRequest) -> Reply:
    """A planner cuts the work into as many parts as it is told to; everybody else says 42."""
    if request.reply == "verdict":
        return Verdict("accept", "42")
    if request.reply == "report":
        return Report("42")
    wanted = [block.body for block in read_blocks(request.messages[-1].content) if block.tag == "parts"]
    return Plan(tuple(Part(f"part {i}") for i in range(int(wanted[0]) if wanted else 0)))


def run(topology: Topology) -> RunResult:
    """Every call takes one second, so that a run takes as many as its sequential depth."""
    models = {name: ScriptedModel(reply, latency_s=1, name=name) for name in ("m", "large", "small")}
    spec = RunSpec("run", topology, Task("How many?", answer="42"), Budget(calls=100_000), 0)
    result = run_virtual([spec], models.__getitem__)[0]
    assert result.status == "completed", result.reason
    return result


def layers(*sizes: int) -> Graph:
    """All nodes of a layer write to all of the next."""
    nodes = [[f"{layer}.{i}" for i in range(size)] for layer, size in enumerate(sizes)]
    edges = [(a, b) for left, right in pairwise(nodes) for a in left for b in right]
    last = nodes[-1][0]
    return Graph({n: Agent("verifier" if n == last else "executor") for row in nodes for n in row}, edges, model="m")


def fan(n: int) -> Graph:
    """A star drawn by hand: the plan fans out over one node of n members."""
    nodes: dict[str, Node] = {"plan": Agent("planner"), "work": [Agent("executor")] * n, "check": Agent("verifier")}
    return Graph(nodes, [("plan", "work"), ("work", "check")], model="m")


def tree(b: int, d: int) -> tuple[Topology, int, int, int, int]:
    hubs = sum(b**level for level in range(d))
    return Tree(b, d, model="m"), 2 * hubs + b**d, 2 * d + 1, 3 * (hubs - 1) + 2 * b**d, b + (d > 1)


SIZES = (1, 2, 3, 7, 40)
FLAT = [
    (Single(model="m"), 1, 1, 0, 0),
    *[(Independent(n, model="m"), n, 1, 0, 0) for n in SIZES],
    *[(Independent(n, combine="concatenate", model="m"), n, 1, 0, 0) for n in SIZES],
    *[(Independent(n, combine="best", model="m"), n + 1, 2, n, n) for n in SIZES],
    *[(Star(n, rounds=r, model="m"), r * (n + 1) + 1, 2 * r + 1, 2 * r * n, n) for n in SIZES for r in (1, 2, 3)],
    *[(Chain(n, model="m"), n + 2, n + 2, 2 * n, 1 + (n > 1)) for n in SIZES],
    *[tree(b, d) for b in (1, 2, 3) for d in (1, 2, 3)],
    *[
        (Mesh(n, rounds=d, model="m"), d * n, d, (d - 1) * n * (n - 1), (n - 1) * (d > 1))
        for n in SIZES[1:]
        for d in (1, 2, 3)
    ],
    *[
        (Hybrid(n, peer_rounds=p, model="m"), n * (p + 1) + 2, p + 3, 2 * n + p * n * (n - 1), n)
        for n in SIZES
        for p in (0, 1, 2)
    ],
    (layers(1), 1, 1, 0, 0),
    (layers(3, 1), 4, 2, 3, 3),
    (layers(2, 3, 2, 1), 8, 4, 2 * 3 + 3 * 2 + 2, 3),
    *[(fan(n), n + 2, 3, 2 * n, n) for n in SIZES],
]
big, small = Agent("planner", model="large"), Agent("executor", model="small")
MIXED = [
    (Star([small] * 6, planner=big, verifier=Agent("verifier", model="large")), 8, 3, 12, 6),
    (Star([Agent("executor", model="large")] * 3, planner=Agent("planner"), model="small"), 5, 3, 6, 3),
    (Mesh([small, Agent("executor", model="large"), small], rounds=2), 6, 2, 6, 2),
    (Tree(2, 2, hub=Agent("hub", model="large"), model="small"), *tree(2, 2)[1:]),
]
star = Star(2, model="m")  # 4 calls, depth 3, 4 messages
NESTED = [
    (Star([Chain(2), Single()], model="m"), 2 + 4 + 1, 1 + 4 + 1, 4 + 4, 2),
    (Chain([star] * 3, model="m"), 2 + 3 * 4, 2 + 3 * 3, 6 + 3 * 4, 2),
    (Mesh([star] * 3, rounds=2), 6 * 4, 2 * 3, 6 + 6 * 4, 2),
    (Star([Mesh(2, model="m")] * 3, rounds=2, model="m"), 2 + 6 * 4 + 1, 2 * (1 + 2) + 1, 12 + 6 * 2, 3),
    (Star(2, verifier=star, model="m"), 3 + 4, 2 + 3, 4 + 4, 2),
    (Independent([star, Single(model="m")], combine="best", model="m"), 4 + 1 + 1, 3 + 1, 2 + 4, 2),
    (Hybrid([star] * 2, peer_rounds=2, model="m"), 2 + 6 * 4, 1 + 3 * 3 + 1, 4 + 4 + 6 * 4, 2),
    (Tree(2, 1, executor=Chain(1), model="m"), 2 + 2 * 3, 2 + 3, 4 + 2 * 2, 2),
    (Star([Mesh([star] * 2)], model="m"), 2 + 4 * 4, 2 + 2 * 3, 2 + 2 + 4 * 4, 2),
    (Graph({"a": star, "b": Single(), "c": Agent("verifier")}, [("a", "c"), ("b", "c")], model="m"), 6, 4, 6, 2),
]


@pytest.mark.parametrize(
    ("topology", "calls", "depth", "messages", "fan_in"),
    [*FLAT, *MIXED, *NESTED],
    ids=lambda value: value.name if isinstance(value, Topology) else str(value),
)
def test_the_formulas_are_what_a_full_run_measures(
    topology: Topology, calls: int, depth: int, messages: int, fan_in: int
) -> None:
    assert (topology.calls(), topology.depth(), topology.messages(), topology.fan_in()) == (
        calls,
        depth,
        messages,
        fan_in,
    )

    result = run(topology)

    assert (len(result.attempts), result.seconds, result.metrics["messages"]) == (calls, depth, messages)
    wrote = [sum(sender not in (OUTSIDE, a.seat) for sender in a.senders) for a in result.attempts]
    # What a seat that is a topology reads is in nobody's journal by its name.
    inner = any(isinstance(member, Topology) for member in topology.seats().values())
    assert max(wrote) <= fan_in if inner else max(wrote) == fan_in
    kept = {call.seat: call.mails for call in topology.finish()}
    assert all(n <= kept[a.seat] for n, a in zip(wrote, result.attempts, strict=True) if a.seat in kept)


@pytest.mark.parametrize(
    "topology",
    [
        *(Single(), Independent(3), Independent(3, combine="best"), Cascade(3, agree=3)),
        *(Star(3), Chain(1), Chain(3), Tree(2, 1), Tree(2, 2), Mesh(3, rounds=1)),
        *(Hybrid(n, peer_rounds=p) for n in (1, 2, 3) for p in (0, 1, 2)),
        *(layers(1), layers(2, 3, 1), fan(3)),
        *(Star(1, rounds=2), Star(3, rounds=2), Mesh(2, rounds=2), Mesh(3, rounds=2)),
    ],
    ids=lambda topology: topology.name,
)
def test_a_seat_is_priced_at_the_messages_that_its_prompts_really_hold(topology: Topology) -> None:
    team = copy(topology)
    team._seats = {seat: replace(member, model=seat) for seat, member in topology.seats().items()}  # type: ignore[type-var]
    held = dict.fromkeys(team.seats(), 0)

    def noting(seat: str, request: ChatRequest) -> Reply:
        messages = sum(block.tag in ("part", "mail") for block in read_blocks(request.messages[-1].content))
        held[seat] = max(held[seat], messages)
        # Nobody agrees, so that a cascade goes on to its end.
        return Report(seat) if request.reply == "report" else reply(request)

    models = {seat: ScriptedModel(partial(noting, seat), name=seat) for seat in held}
    run_virtual([RunSpec("run", team, Task("How many?"), Budget(calls=999), 0)], models.__getitem__)

    assert held == {seat: team.mails().get(seat, 0) for seat in held}


@pytest.mark.parametrize(
    ("topology", "calls", "depth"), [(Cascade(4, agree=3, model="m"), 3, 3), (Cascade([star] * 3, agree=1), 4, 3)]
)
def test_a_run_that_stops_early_stays_below_its_formulas(topology: Topology, calls: int, depth: int) -> None:
    result = run(topology)

    assert (len(result.attempts), result.seconds) == (calls, depth)
    assert topology.calls() > calls
    assert topology.depth() > depth


def test_a_team_whose_mail_does_not_fit_into_a_window_is_refused_before_money_moves() -> None:
    """b messages of m tokens, and a window of W."""

    def prepared(topology: Topology, window: int) -> object:
        model = ScriptedModel(reply, name="m", window_tokens=window)
        return prepare(RunSpec("r", topology, Task("x"), Budget(calls=99), 0), {"m": model}.__getitem__)

    wide = Star(40, model="m")
    assert prepared(wide, 40 * 256)
    with pytest.raises(ConfigError) as refused:
        prepared(wide, 40 * 256 - 1)
    assert str(refused.value) == (
        "Star(40): seat 'verifier' may read 40 messages of 256 tokens at once, 10,240 in all, and the window of m is "
        "10,239; wire fewer seats to it, shorten message_tokens, or give it a model with a wider window"
    )
    with pytest.raises(ConfigError, match=r"seat 'executor\[0\]/verifier' may read 41 messages"):
        prepared(Star([wide], model="m"), 40 * 256)
    wide.message_tokens = 128
    assert prepared(wide, 40 * 128)


@pytest.mark.parametrize(
    ("topology", "name"),
    [
        (Single(), "Single"),
        (Single(fill=True), "Single(fill)"),
        (Single(name="alone"), "alone"),
        (Independent(3), "Independent(3)"),
        (Star(4), "Star(4)"),
        (Chain(2), "Chain(2)"),
        (Tree(2, 3), "Tree(2,3)"),
        (layers(1), "graph"),
        (Graph({"a": Agent("executor")}, [], name="mine"), "mine"),
        (Star(4, rounds=3), "Star(4,3)"),
        (Mesh(3, rounds=2), "Mesh(3,2)"),
        (Hybrid(3), "Hybrid(3,1)"),
        (Independent(3, combine="best"), "Independent(3,best)"),
        (Star([Chain(2), Chain(2), Single()]), "Star(Chain(2)*2, Single)"),
        (Star([Chain(2), Agent("executor"), Agent("executor")], rounds=2), "Star(Chain(2), executor*2, 2)"),
        (Star(2, verifier=Mesh(3)), "Star(2, verifier=Mesh(3,2))"),
        (Chain([Star([Single(fill=True)])]), "Chain(Star(Single(fill)))"),
        (Tree(2, 1, executor=Single()), "Tree(2, 1, Single)"),
        (Star([Chain(2)], name="deep"), "deep"),
    ],
)
def test_a_topology_has_a_name_for_tables(topology: Topology, name: str) -> None:
    assert topology.name == name


def test_seats_come_in_the_order_in_which_they_are_served() -> None:
    assert list(Star(2).seats()) == ["planner", "executor[0]", "executor[1]", "verifier"]
    assert list(Tree(2, 1).seats()) == ["hub", "executor[0]", "executor[1]", "join"]


def test_a_model_is_filled_in_where_an_agent_has_none() -> None:
    topology = Star([Agent("executor", model="own"), Agent("executor")], model="m")
    later = Star([Agent("executor", model="own"), Agent("executor")]).with_model("m")

    for star in (topology, later):
        assert [agent.model for agent in agents_of(star).values()] == ["m", "own", "m", "m"]


def test_a_plan_shorter_than_the_team_leaves_some_idle_and_of_a_longer_one_the_last_does_the_rest() -> None:
    def measured(parts: int) -> list[str]:
        plan = Plan(tuple(Part(f"part {i}") for i in range(parts)))
        lines: dict[str, Reply] = {"plan": plan, "report": Report("42"), "verdict": Verdict("accept", "42")}
        model = ScriptedModel(lambda request: lines[request.reply], name="m")
        spec = RunSpec("run", Star(2, model="m"), Task("How many?"), Budget(calls=99), 0)
        return [a.seat for a in run_virtual([spec], {"m": model}.__getitem__)[0].attempts if "executor" in a.seat]

    assert measured(0) == []
    assert measured(1) == ["executor[0]"]
    assert measured(3) == ["executor[0]", "executor[1]"]


@pytest.mark.parametrize(
    "build",
    [
        lambda: Star(0),
        lambda: Star([]),
        lambda: Chain(0),
        lambda: Independent(-1),
        lambda: Independent(1001),
        lambda: Tree(0, 2),
        lambda: Tree(2, 0),
        lambda: Tree(2, 9),
        lambda: Tree(1, 600),
        lambda: Graph({}, []),
        lambda: Topology("none", {}),
    ],
)
def test_a_team_of_nobody_or_of_too_many_is_refused(build: object) -> None:
    assert callable(build)
    with pytest.raises(ConfigError):
        build()


@pytest.mark.parametrize(
    "build",
    [
        lambda: Star(2, planner=Agent("executor")),
        lambda: Star([Agent("verifier")]),
        lambda: Chain(2, planner=Agent("lead", prompt="Cut the work.")),
        lambda: Chain([Agent("planner")]),
        lambda: Tree(2, 1, hub=Agent("executor")),
        lambda: Tree(2, 1, executor=Agent("verifier")),
        lambda: Tree(2, 1, verifier=Agent("executor")),
        lambda: Independent([Agent("verifier")]),
        lambda: Single(Agent("verifier"), fill=True),
    ],
)
def test_an_agent_whose_reply_the_topology_cannot_use_is_refused(build: object) -> None:
    assert callable(build)
    with pytest.raises(ConfigError, match="is needed here"):
        build()


def test_a_role_of_ones_own_may_execute_and_verify() -> None:
    lead = Agent("lead", prompt="Lead.")

    assert run(Star([lead, lead], verifier=lead, model="m")).answer == "42"
    assert run(Single(Agent("verifier", model="m"))).answer == "42"


def test_a_topology_without_a_program_says_so() -> None:
    spec = RunSpec("run", Topology("bare", {"a": Agent("executor", model="m")}), Task("x"), Budget(calls=1), 0)
    (result,) = run_virtual([spec], {"m": ScriptedModel(["42"], name="m")}.__getitem__)

    assert (result.status, result.reason) == ("failed", "bare: a topology must program solve(self, task, team)")
