"""The user's own wiring: what cannot work is refused with its path, and nobody waits for whom it does not listen to."""

from collections.abc import Iterator, Mapping, Sequence
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
from runtime.preflight import RunSpec
from runtime.result import RunResult
from runtime.task import Task
from topologies import Graph, Single, Star
from topologies.wiring import Node

EXECUTOR, PLANNER, VERIFIER = Agent("executor"), Agent("planner"), Agent("verifier")


def run(graph: Graph, models: Mapping[str, ScriptedModel], budget: Budget | None = None) -> RunResult:
    spec = RunSpec("run", graph, Task("How many?", answer="42"), budget or Budget(calls=999), 0)
    return run_virtual([spec], models.__getitem__)[0]


@pytest.mark.parametrize(
    ("edges", "text"),
    [
        ([("a", "b"), ("b", "c"), ("c", "a"), ("a", "d")], "cycle: "),
        ([("a", "b"), ("a", "b"), ("b", "c"), ("c", "d")], "edge a → b is there twice"),
        ([("a", "a"), ("a", "b"), ("b", "c"), ("c", "d")], "'a' writes to itself"),
        ([("a", "b"), ("b", "c"), ("c", "nobody")], "names 'nobody', which is no node"),
        ([("nobody", "b"), ("b", "c")], "names 'nobody', which is no node"),
        (
            [("a", "b"), ("b", "c"), ("a", "d")],
            "exactly one node must have no listener, to answer; there are c, d: a → b → c; a → d",
        ),
        ([("a", "b"), ("b", "c")], "node 'd' has no edges: nobody writes to it, and nobody hears it"),
    ],
)
def test_a_graph_that_cannot_work_is_refused(edges: Sequence[tuple[str, str]], text: str) -> None:
    with pytest.raises(ConfigError, match="graph: ") as refused:
        Graph(dict.fromkeys("abcd", EXECUTOR), edges)

    assert text in str(refused.value)


def test_a_cycle_is_shown_along_its_edges() -> None:
    edges = [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")]
    with pytest.raises(ConfigError) as refused:
        Graph(dict.fromkeys("abcd", EXECUTOR), edges)

    path = str(refused.value).rpartition(": ")[2].split(" → ")
    assert path[0] == path[-1]
    assert set(pairwise(path)) == {("a", "b"), ("b", "c"), ("c", "a")}


@pytest.mark.parametrize(
    ("nodes", "edges", "text"),
    [
        ({"a": [], "b": EXECUTOR}, [("a", "b")], "node 'a' has no members"),
        ({"a": [EXECUTOR], "a[0]": EXECUTOR}, [("a", "a[0]")], "node 'a[0]' makes a second seat a[0]"),
        ({"a": EXECUTOR, "b": [EXECUTOR] * 2}, [("a", "b")], "node 'b' is to answer, and has 2 members"),
        ({"a": [EXECUTOR] * 1000, "b": EXECUTOR}, [("a", "b")], "1,001 nodes and 1 edges; a graph has 1 to 1,000"),
    ],
)
def test_a_node_of_several_members_is_checked_too(nodes: Mapping[str, Node], edges: object, text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Graph(nodes, edges)  # type: ignore[arg-type]

    assert text in str(refused.value)


class Untouched(Sequence[tuple[str, str]]):
    """So many edges, and nobody may look at one."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: object) -> tuple[str, str]:  # type: ignore[override]
        raise AssertionError("an edge was looked at")

    def __iter__(self) -> Iterator[tuple[str, str]]:
        raise AssertionError("the edges were walked")


@pytest.mark.parametrize(("n_nodes", "n_edges"), [(100_000, 10**9), (100_000, 1), (3, 10)])
def test_a_graph_out_of_all_proportion_is_refused_before_its_edges_are_walked(n_nodes: int, n_edges: int) -> None:
    with pytest.raises(
        ConfigError, match=f"graph: {n_nodes:,} nodes and {n_edges:,} edges; a graph has 1 to 1,000 nodes"
    ):
        Graph(dict.fromkeys(map(str, range(n_nodes)), EXECUTOR), Untouched(n_edges))


def test_the_largest_dense_graph_is_built() -> None:
    names = [str(i) for i in range(1000)]
    edges = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :: 7]]

    assert Graph(dict.fromkeys(names, EXECUTOR), [*edges, *pairwise(names)][: len(edges)]).depth() > 100


def test_nobody_waits_for_whom_it_does_not_listen_to() -> None:
    """fast (0.1 s) → after_fast beside slow (0.6 s): frameworks with supersteps start after_fast at 0.6 s."""
    nodes = {
        "fast": Agent("executor", model="fast"),
        "after_fast": Agent("executor", model="fast"),
        "slow": Agent("executor", model="slow"),
        "last": Agent("verifier", model="fast"),
    }
    graph = Graph(nodes, [("fast", "after_fast"), ("after_fast", "last"), ("slow", "last")])
    models = {name: ScriptedModel(says, latency_s=s, name=name) for name, s in (("fast", 0.1), ("slow", 0.6))}

    result = run(graph, models)

    began = {attempt.seat: round(attempt.began_s, 5) for attempt in result.attempts}
    assert began == {"fast": 0, "slow": 0, "after_fast": 0.1, "last": 0.6}
    assert round(result.seconds, 5) == 0.7


def says(request: ChatRequest) -> Reply:
    return Report("42") if request.reply == "report" else Verdict("accept", "42")


def fan(plan: int, *, members: int = 3) -> tuple[RunResult, list[str]]:
    """A planner of so many parts before several executors; what each executor was told."""
    told: list[str] = []

    def answer(request: ChatRequest) -> Reply:
        blocks = {block.tag: block.body for block in read_blocks(request.messages[-1].content)}
        if request.reply == "plan":
            assert blocks["parts"] == str(members)
            return Plan(tuple(Part(f"part {i}") for i in range(plan)))
        if request.reply == "report":
            told.append(blocks["part"])
            assert "mail" not in blocks
        return says(request)

    nodes: dict[str, Node] = {"planner": PLANNER, "executor": [EXECUTOR] * members, "verifier": VERIFIER}
    graph = Graph(nodes, [("planner", "executor"), ("executor", "verifier")], model="m")
    return run(graph, {"m": ScriptedModel(answer, name="m")}), told


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        (0, []),
        (2, ["part 0", "part 1"]),
        (3, ["part 0", "part 1", "part 2"]),
        (5, ["part 0", "part 1", "part 2\npart 3\npart 4"]),
    ],
)
def test_a_plan_fans_out_one_part_to_each_member(plan: int, told: list[str]) -> None:
    result, heard = fan(plan)

    assert (result.status, result.answer, sorted(heard)) == ("completed", "42", told)
    (verifier,) = [attempt for attempt in result.attempts if attempt.seat == "verifier"]
    assert verifier.senders == (tuple(f"executor[{i}]" for i in range(len(told))) or ("task",))


def test_who_hears_only_of_idle_nodes_stays_idle_and_a_single_listener_reads_the_whole_plan() -> None:
    nodes: dict[str, Node] = {
        "plan": PLANNER,
        "work": [EXECUTOR] * 2,
        "check": [EXECUTOR] * 2,
        "note": EXECUTOR,
        "last": VERIFIER,
    }
    edges = [("plan", "work"), ("work", "check"), ("check", "last"), ("plan", "note"), ("note", "last")]

    def none(request: ChatRequest) -> Reply:
        return Plan(()) if request.reply == "plan" else says(request)

    result = run(Graph(nodes, edges, model="m"), {"m": ScriptedModel(none, name="m")})

    assert [(a.seat, a.senders) for a in result.attempts] == [
        ("last", ("note",)),
        ("note", ("plan",)),
        ("plan", ("task",)),
    ]


def test_a_node_may_be_a_topology() -> None:
    nodes: dict[str, Node] = {"team": Star(2), "alone": Single(), "last": VERIFIER}
    graph = Graph(nodes, [("team", "last"), ("alone", "last")], model="m")

    def plan(request: ChatRequest) -> Reply:
        return Plan((Part("one"), Part("other"))) if request.reply == "plan" else says(request)

    result = run(graph, {"m": ScriptedModel(plan, name="m")})

    assert (result.status, graph.calls(), len(result.attempts)) == ("completed", 6, 6)
    assert next(a for a in result.attempts if a.seat == "last").senders == ("team", "alone")


def test_a_graph_that_plans_answers_with_its_plan() -> None:
    plan = Plan((Part("first"), Part("second")))

    result = run(Graph({"a": PLANNER}, [], model="m"), {"m": ScriptedModel([plan], name="m")})

    assert (result.status, result.answer) == ("completed", "first\nsecond")
