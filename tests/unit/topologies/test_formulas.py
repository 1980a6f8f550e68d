"""The formulas in the topologies' docstrings are what a run measures, and wiring that cannot work is refused at once."""

from collections.abc import Sequence
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
from runtime.protocols import OUTSIDE
from runtime.result import RunResult
from runtime.task import Task
from topologies import Cascade, Chain, Graph, Independent, Single, Star, Topology, Tree


def run(topology: Topology) -> RunResult:
    """Every call takes one second; a planner cuts the work into as many parts as it is told to."""

    def reply(request: ChatRequest) -> Reply:
        if request.reply == "verdict":
            return Verdict("accept", "42")
        if request.reply == "report":
            return Report("42")
        (wanted,) = (block.body for block in read_blocks(request.messages[-1].content) if block.tag == "parts")
        return Plan(tuple(Part(f"part {i}") for i in range(int(wanted))))

    model = ScriptedModel(reply, latency_s=1, name="m")
    spec = RunSpec("run", topology, Task("How many?", answer="42"), Budget(calls=10_000), 0)
    result = run_virtual([spec], {"m": model}.__getitem__)[0]
    assert (result.status, result.correct) == ("completed", True)
    return result


def layers(*sizes: int) -> Graph:
    """All nodes of a layer write to all of the next."""
    nodes = [[f"{layer}.{i}" for i in range(size)] for layer, size in enumerate(sizes)]
    edges = [(a, b) for left, right in pairwise(nodes) for a in left for b in right]
    last = nodes[-1][0]
    return Graph({n: Agent("verifier" if n == last else "executor") for row in nodes for n in row}, edges, model="m")


def tree(b: int, d: int) -> tuple[Topology, int, int, int]:
    hubs = sum(b**level for level in range(d))
    return Tree(b, d, model="m"), 2 * hubs + b**d, 2 * d + 1, 3 * (hubs - 1) + 2 * b**d


@pytest.mark.parametrize(
    ("topology", "calls", "depth", "messages"),
    [
        (Single(model="m"), 1, 1, 0),
        *[(Independent(n, model="m"), n, 1, 0) for n in (1, 2, 7, 40)],
        *[(Star(n, model="m"), n + 2, 3, 2 * n) for n in (1, 2, 7, 40)],
        *[(Chain(n, model="m"), n + 2, n + 2, 2 * n) for n in (1, 2, 7, 40)],
        *[tree(b, d) for b in (1, 2, 3) for d in (1, 2, 3)],
        (layers(1), 1, 1, 0),
        (layers(3, 1), 4, 2, 3),
        (layers(2, 3, 2, 1), 8, 4, 2 * 3 + 3 * 2 + 2),
        (Cascade(4, agree=3, model="m"), 3, 3, 0),
    ],
    ids=lambda value: value.name if isinstance(value, Topology) else str(value),
)
def test_calls_depth_and_messages_are_what_a_run_measures(
    topology: Topology, calls: int, depth: int, messages: int
) -> None:
    result = run(topology)

    assert (len(result.attempts), result.seconds, result.metrics["messages"]) == (calls, depth, messages)
    assert topology.calls() == (calls if not isinstance(topology, Cascade) else 4)
    kept = {call.seat: call.mails for call in topology.finish()}
    wrote = {a.seat: len([sender for sender in a.senders if sender != OUTSIDE]) for a in result.attempts}
    assert all(wrote[seat] <= mails for seat, mails in kept.items()), "more mail than was priced"


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
        assert [agent.model for agent in star.seats().values()] == ["m", "own", "m", "m"]


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
    ("edges", "text"),
    [
        ([("a", "b"), ("b", "c"), ("c", "a"), ("a", "d")], "cycle: "),
        ([("a", "b"), ("a", "b"), ("b", "c"), ("c", "d")], "edge a → b is there twice"),
        ([("a", "a"), ("a", "b"), ("b", "c"), ("c", "d")], "'a' writes to itself"),
        ([("a", "b"), ("b", "c"), ("c", "nobody")], "names 'nobody', which is no node"),
        ([("nobody", "b"), ("b", "c")], "names 'nobody', which is no node"),
        ([("a", "b"), ("b", "c")], "exactly one node must have no listener, to answer; there are c, d"),
    ],
)
def test_a_graph_that_cannot_work_is_refused(edges: Sequence[tuple[str, str]], text: str) -> None:
    with pytest.raises(ConfigError, match="graph: ") as refused:
        Graph(dict.fromkeys("abcd", Agent("executor")), edges)

    assert text in str(refused.value)


def test_a_cycle_is_shown_along_its_edges() -> None:
    edges = [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")]
    with pytest.raises(ConfigError) as refused:
        Graph(dict.fromkeys("abcd", Agent("executor")), edges)

    path = str(refused.value).rpartition(": ")[2].split(" → ")
    assert path[0] == path[-1]
    assert set(pairwise(path)) == {("a", "b"), ("b", "c"), ("c", "a")}


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
