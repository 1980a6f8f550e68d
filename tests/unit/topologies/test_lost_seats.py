"""A seat whose model fails for good takes nobody's work with it: the others are heard, whatever the wiring."""

import pytest

from runtime.agents.agent import Agent
from runtime.budget import Budget
from runtime.errors import AgentFailed, BadModelReply, ModelRefused, NoChannel
from runtime.host import run_virtual
from runtime.messages import Failure, Part, Plan, Refusal, Reply, Report, Verdict, bundle
from runtime.models.base import ChatReply, ChatRequest
from runtime.models.scripted import ScriptedModel
from runtime.preflight import RunSpec
from runtime.protocols import Outcome, Team
from runtime.result import RunResult
from runtime.task import Task
from topologies import Cascade, Chain, Graph, Hybrid, Independent, Mesh, Star, Topology, Tree


class Bad(ScriptedModel):
    """Refuses every request."""

    async def complete(self, request: ChatRequest) -> ChatReply:
        raise ModelRefused(self.name, 400, "context too long")


class Broken(ScriptedModel):
    """A model of a user's own, with a mistake."""

    async def complete(self, request: ChatRequest) -> ChatReply:
        raise LookupError("no such thing")


def says(request: ChatRequest) -> Reply:
    replies: dict[str, Reply] = {
        "plan": Plan((Part("a"), Part("b"), Part("c"))),
        "report": Report("42"),
        "verdict": Verdict("mend", "42"),
    }
    return replies[request.reply]


def run(topology: Topology, calls: int = 99) -> RunResult:
    models = {
        "m": ScriptedModel(says, latency_s=1, name="m"),
        "bad": Bad(says, name="bad"),
        "slow": Bad(says, name="slow"),
        "broken": Broken(says, name="broken"),
    }
    spec = RunSpec("r", topology.with_model("m"), Task("x", answer="42"), Budget(calls=calls), 0)
    return run_virtual([spec], models.__getitem__)[0]


def team(*models: str | None) -> list[Agent | Topology]:
    return [Agent("executor", model=model) for model in models]


WIRED = [("p", "e"), ("e", "v")]


def graph(*models: str | None) -> Graph:
    return Graph({"p": Agent("planner"), "e": team(*models), "v": Agent("verifier")}, WIRED)


LAST_FAILS = [
    (Star(team(None, None, "bad")), "completed"),
    (Star(team(None, None, "bad"), rounds=2), "completed"),
    (Hybrid(team(None, None, "bad")), "completed"),
    (Independent(team(None, None, "bad"), combine="best"), "completed"),
    (Chain(team(None, None, "bad")), "completed"),
    (Cascade(team(None, "bad", None)), "completed"),
    (Star([*team(None, None), Chain(1, model="bad")]), "completed"),
    (Star([*team(None, None), Independent(team(None, "bad"))]), "completed"),
    (Independent(team(None, None, "bad")), "failed"),
    (Mesh(team(None, None, "bad")), "failed"),
    (Cascade(team("bad", None), agree=2), "failed"),
    (graph(None, None, "bad"), "failed"),
]


@pytest.mark.parametrize(("topology", "status"), LAST_FAILS, ids=lambda value: getattr(value, "name", ""))
def test_what_the_others_were_paid_for_is_answered_with(topology: Topology, status: str) -> None:
    """Where a verifier mends, the run is completed; where the others' answers are only counted, one is missing."""
    result = run(topology)

    assert (result.status, result.answer, result.correct) == (status, "42", True)
    assert result.reason == ("" if status == "completed" else "bad: refused with 400: context too long")
    asked = 2 if isinstance(topology, Mesh) else 1
    assert result.metrics["failures"] == asked, "each time it is asked, and once however far up it is felt"


@pytest.mark.parametrize(
    "topology",
    [
        Star(team("bad", "bad")),
        Star(2, planner=Agent("planner", model="bad")),
        Hybrid(team("bad", "bad")),
        Independent(team("bad", "bad")),
        Independent(team("bad", "bad"), combine="best"),
        Mesh(team("bad", "bad")),
        Chain(team("bad", None)),
        Cascade(team("bad", "bad")),
        Tree(2, 2, executor=Agent("executor", model="bad")),
        graph("bad", "bad"),
        Star([Star(team("bad")), Mesh(team("bad", "bad"))]),
    ],
    ids=lambda topology: topology.name,
)
def test_where_nobody_answered_the_run_fails_with_the_reason(topology: Topology) -> None:
    result = run(topology)

    assert (result.status, result.answer) == ("failed", None)
    assert result.reason == "bad: refused with 400: context too long"


def test_a_mesh_in_which_nobody_posted_asks_nobody_again() -> None:
    assert len(run(Mesh(team("bad", "bad"), rounds=5)).attempts) == 2


def test_a_subtree_that_fails_leaves_the_rest_of_the_tree() -> None:
    cut = Tree(2, 2, executor=Chain(team(None)))
    for seat in ("executor[0][0]", "executor[0][1]"):
        cut._seats[seat] = Agent("executor", model="bad")

    result = run(cut)

    assert (result.status, result.answer) == ("completed", "42")
    assert "join" in {attempt.seat for attempt in result.attempts}


@pytest.mark.parametrize("order", [("bad", "slow", None), ("slow", "bad", None)])
def test_of_several_failures_the_first_in_the_order_of_seats_is_the_reason(order: tuple[str | None, ...]) -> None:
    assert run(Independent(team(*order))).reason == f"{order[0]}: refused with 400: context too long"


def test_a_mistake_in_a_models_own_code_costs_no_siblings_report_either() -> None:
    alone = run(Independent(team("broken", "broken")))

    star = run(Star(team(None, "broken")))

    assert (star.answer, star.metrics["failures"]) == ("42", 1)
    assert (alone.status, alone.reason) == ("failed", "seat agent[0] raised LookupError: no such thing")


class Asks(Topology):
    """Asks a good and a bad seat at once, and does as it is told with what comes."""

    def __init__(self, then: str) -> None:
        super().__init__("Asks", {"a": Agent("executor"), "b": Agent("executor", model="bad"), "v": Agent("verifier")})
        self.then = then

    def channels(self) -> list[tuple[str, str]]:
        return [("a", "v"), ("b", "v")] if self.then != "no channel" else []

    async def solve(self, task: Task, team: Team) -> Outcome:
        replies = await team.ask_all([("b", task), ("a", task), ("b", task)])
        assert [type(reply) for reply in replies] == [Failure, Report, Failure]
        if self.then == "heard":
            return await team.ask("v", bundle([reply for reply in replies if isinstance(reply, Report)]))
        if self.then == "no channel":
            await team.ask_all([("b", task), ("v", bundle(replies[1:2]))])
        if self.then == "returned":
            return replies[0]  # type: ignore[return-value]
        return await team.ask("v", bundle(replies))


@pytest.mark.parametrize(
    ("then", "status", "reason"),
    [
        ("heard", "completed", ""),
        ("bundled", "failed", "bad: refused with 400: context too long"),
        ("no channel", "failed", str(NoChannel("a", "v"))),
        ("returned", "failed", "b: bad: refused with 400: context too long"),
    ],
)
def test_a_topology_of_ones_own_hears_the_others_and_no_failure_is_a_mail(then: str, status: str, reason: str) -> None:
    """What is the topology's own mistake is raised and never stands in a seat's place."""
    result = run(Asks(then))

    assert (result.status, result.reason) == (status, reason)


def test_a_failure_in_a_bundle_raises_what_failed() -> None:
    error = BadModelReply("m", "cut off")

    with pytest.raises(BadModelReply) as raised:
        bundle([Report("42"), Failure("a", error), Refusal("b", "run", "tokens", 9, 1)])
    assert raised.value is error
    with pytest.raises(AgentFailed):
        bundle(Failure("a", AgentFailed("seat a", "ValueError", "x")))


@pytest.mark.parametrize("calls", [3, 4, 5])
def test_a_chain_that_can_pay_for_no_further_link_still_verifies(calls: int) -> None:
    result = run(Chain(4), calls=calls)

    assert (result.status, result.answer, len(result.attempts)) == ("completed", "42", calls)
    assert "verifier" in {attempt.seat for attempt in result.attempts}


def test_a_chain_that_can_pay_for_no_link_at_all_is_exhausted() -> None:
    result = run(Chain(2), calls=2)

    assert (result.status, result.answer, len(result.attempts)) == ("exhausted", None, 1)
