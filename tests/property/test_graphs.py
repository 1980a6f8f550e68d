"""Drawn wirings: each one that can work ends under any budget; each other one is refused, and the path shown is really there."""

import re
from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

from hypothesis import assume, given
from hypothesis import strategies as st

from policies import FixedPacing
from runtime.agents.agent import Agent
from runtime.budget import Budget
from runtime.errors import ConfigError
from runtime.host import run_virtual
from runtime.ids import draw
from runtime.messages import Part, Plan, Reply, Report, Verdict, reply_json
from runtime.models.base import ChatReply, ChatRequest, prompt_tokens
from runtime.preflight import RunSpec
from runtime.result import RunResult
from runtime.task import Task
from runtime.trampoline import nap_s
from runtime.usage import Price, Usage
from topologies import Graph, Independent
from topologies.wiring import Node

Edge = tuple[str, str]


class Wiring(NamedTuple):
    """Nodes and edges, as a user gives them."""

    nodes: Mapping[str, Node]
    edges: list[Edge]


class Noisy:
    """Takes 1 to 3 seconds, thinks less than it may, and cuts plans of 0 to 4 parts, by the draw of its seed."""

    name, virtual, shrinkable, naps, window_tokens = "m", True, True, True, 1_000_000
    price: Price | None = Price(2, 3)

    def bound(self, request: ChatRequest) -> Usage:
        return Usage(prompt_tokens(request), request.max_tokens)

    async def complete(self, request: ChatRequest) -> ChatReply:
        await nap_s(1 + request.seed % 3)
        replies: dict[str, Reply] = {
            "plan": Plan(tuple(Part(f"part {i}") for i in range(request.seed % 5))),
            "report": Report(str(request.seed % 3)),
            "verdict": Verdict("accept", "1"),
        }
        used = int(request.max_tokens * draw(request.seed, "used"))
        return ChatReply(reply_json(replies[request.reply]), Usage(prompt_tokens(request), used))


kinds: st.SearchStrategy[Node] = st.sampled_from(
    [
        Agent("executor"),
        Agent("planner"),
        Agent("verifier"),
        [Agent("executor")] * 3,
        [Agent("executor"), Independent(2)],
        Independent(2),
    ]
)


@st.composite
def valid(draw: st.DrawFn) -> Wiring:
    """Edges forward only, each node but the last heard, each reached or a beginning."""
    names = draw(st.permutations("abcdefg"[: draw(st.integers(1, 7))]))
    nodes = {name: draw(kinds) for name in names[:-1]} | {
        names[-1]: draw(kinds.filter(lambda k: not isinstance(k, list)))
    }
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    edges = set(draw(st.lists(st.sampled_from(pairs), max_size=12))) if pairs else set()
    edges |= {(a, names[-1]) for a in names[:-1] if all(sender != a for sender, _ in edges)}
    # Neither nodes nor edges come in an order that already is a way through.
    shuffled = draw(st.permutations(list(nodes)))
    return Wiring({name: nodes[name] for name in shuffled}, draw(st.permutations(sorted(edges))))


budgets = st.builds(
    Budget,
    tokens=st.none() | st.integers(1000, 12_000),
    calls=st.integers(1, 30),
    seconds=st.none() | st.integers(1, 12),
)


def runs(graph: Graph, budget: Budget, seed: int) -> RunResult | None:
    spec = RunSpec("run", graph, Task("How many?", answer="1"), budget, seed)
    try:
        results = run_virtual([spec] * 3, {"m": Noisy()}.__getitem__)
    except ConfigError:
        return None  # too small for one call and the finish
    assert len({result.to_json() for result in results}) == 1
    return results[0]


@given(valid(), budgets, st.sampled_from([100, 500]), st.integers(0, 10**6))
def test_a_graph_that_can_work_ends_under_any_budget(wiring: Wiring, budget: Budget, effort: int, seed: int) -> None:
    graph = Graph(wiring.nodes, wiring.edges, model="m")
    graph.pacing = FixedPacing(effort)

    result = runs(graph, budget, seed)

    if result is None:
        return
    assert result.status in {"completed", "exhausted", "deadline"}, result.reason
    assert not result.overspent
    assert len(result.attempts) <= graph.calls()
    assert result.metrics["messages"] <= graph.messages()
    ended = {a.seat: a.ended_s for a in result.attempts}
    for a in result.attempts:
        assert all(ended[s] <= a.began_s for s in a.senders if s in ended), "asked before its mail was there"
    if result.status == "completed":
        assert result.answer is not None


@given(valid(), st.integers(0, 10**6))
def test_a_graph_under_a_budget_for_all_completes(wiring: Wiring, seed: int) -> None:
    graph = Graph(wiring.nodes, wiring.edges, model="m")

    result = runs(graph, Budget(calls=1000), seed)

    assert result is not None
    assert result.seconds <= 3 * graph.depth() + 0.001, (
        "only who waits for budget may take longer than the longest path"
    )
    assert (result.status, result.metrics["refusals"]) == ("completed", 0)


@given(st.integers(1, 8), st.data())
def test_any_graph_is_taken_or_refused_with_a_path_that_is_really_there(n: int, data: st.DataObject) -> None:
    names = "abcdefgh"[:n]
    ends = st.sampled_from(names)
    edges = data.draw(st.lists(st.tuples(ends, ends).filter(lambda e: e[0] != e[1]), max_size=2 * n, unique=True))
    try:
        graph = Graph(dict.fromkeys(names, Agent("executor")), edges)
    except ConfigError as error:
        _justified(str(error), names, edges)
        return
    # What was taken has no cycle, one end, and nobody apart: each of these by another way than the code's.
    left, gone = set(edges), list[str]()
    while free := sorted({*names} - {b for _, b in left} - {*gone}):
        gone += free
        left = {(a, b) for a, b in left if a not in free}
    assert len(gone) == n
    assert len({*names} - {a for a, _ in edges}) == 1
    assert graph.messages() == len(edges)


def _justified(text: str, names: str, edges: list[Edge]) -> None:
    """Whether the refusal names something that is wrong with the wiring."""
    heard, told = {a for a, _ in edges}, {b for _, b in edges}
    shown = [part.split(" → ") for part in re.split(r"[:;] ", text) if " → " in part]
    assert all(step in edges for path in shown for step in pairwise(path)), text
    if "a cycle" in text:
        (cycle,) = shown
        assert cycle[0] == cycle[-1]
        assert len(cycle) == len(set(cycle)) + 1
    elif "has no edges" in text:
        (alone,) = re.findall(r"node '(.)'", text)
        assert alone not in heard | told
    else:
        assert "exactly one node must have no listener" in text
        ends = {path[-1] for path in shown}
        assert len(ends) >= 2
        assert not ends & heard
        assert all(path[0] not in told for path in shown)


@given(valid(), st.data())
def test_one_edge_too_many_is_refused(wiring: Wiring, data: st.DataObject) -> None:
    assume(wiring.edges)
    sender, receiver = data.draw(st.sampled_from(wiring.edges))
    reach: defaultdict[str, set[str]] = defaultdict(set)
    for _ in wiring.nodes:
        for a, b in wiring.edges:
            reach[a] |= {b} | reach[b]
    back = data.draw(st.sampled_from(sorted(reach[sender])))
    for edge, text in (
        ((sender, receiver), "is there twice"),
        ((back, sender), "a cycle"),
        ((back, back), "to itself"),
    ):
        try:
            Graph(wiring.nodes, [*wiring.edges, edge])
        except ConfigError as error:
            assert text in str(error)  # noqa: PT017
        else:
            raise AssertionError(f"{edge} was taken")
