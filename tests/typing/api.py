"""What the public face promises to a type checker; read by mypy and pyright, never run."""

from collections.abc import AsyncIterator, Mapping, Sequence
from decimal import Decimal
from typing import Literal, assert_type

from benchmarks import Experiment, setting
from policies import StrategyAuction
from runtime import (
    Agent,
    Answer,
    Budget,
    Bundle,
    Failure,
    ModelSpec,
    Plan,
    Refusal,
    Report,
    RunResult,
    RunSpec,
    Runtime,
    Task,
    Tool,
    Verdict,
    bundle,
)
from runtime.journal import Attempt
from runtime.models import ScriptedModel
from runtime.protocols import Mailable, Outcome, Router, Team
from runtime.protocols import Topology as AnyTopology
from runtime.result import Spend, SpendReport, Status
from topologies import Cascade, Chain, Graph, Independent, Single, Star, Topology, Tree


async def face(task: Task) -> None:
    """The first lines of a user's program."""
    async with Runtime(models={"m": ScriptedModel(["42"])}) as runtime:
        assert_type(runtime, Runtime)
        result = await runtime.run(Star(4, model="m"), task, budget=Budget(tokens=100), seed=7, run_id="mine")
        assert_type(result, RunResult)
        spec = runtime.spec("run", Single(model="m"), task, Budget(usd="0.1"), 7)
        assert_type(spec, RunSpec)
        assert_type(runtime.map([spec]), AsyncIterator[tuple[RunSpec, RunResult]])
        async for done, one in runtime.map([spec]):
            assert_type(done, RunSpec)
            assert_type(one, RunResult)
    far = {"far": ModelSpec(endpoint="http://h/v1", model="m")}
    async with Runtime("local", models=far, out="out", hosts=2, placement="spread") as on_ray:
        assert_type(on_ray.hosts, int)


def results(result: RunResult) -> None:
    """What came out of a run."""
    assert_type(result.status, Status)
    assert_type(result.answer, str | None)
    assert_type(result.correct, bool | None)
    assert_type(result.spend, SpendReport)
    assert_type(result.spend.total, Spend)
    assert_type(result.spend.total.tokens, int)
    assert_type(result.spend.total.usd, Decimal)
    assert_type(result.spend.by_agent, Mapping[str, Spend])
    assert_type(result.deterministic, Literal["D1", "D2"])
    assert_type(result.attempts, tuple[Attempt, ...])
    assert_type(result.overspent, bool)


def build() -> Topology:
    """Teams may be mixed, and take a model later."""
    router: Router = StrategyAuction("sim/small", "sim/large")
    agent = Agent("executor", model=router, effort_tokens=200, resources={"GPU": 1})
    others: list[AnyTopology] = [
        Star(planner=Agent("planner", model="large"), executors=[agent] * 4),
        Chain(3),
        Tree(branching=2, depth=2, model=router),
        Independent(3, model="sim/small"),
        Single(fill=True),
        Cascade([agent, agent]),
        Graph({"a": agent, "b": agent}, [("a", "b")]),
    ]
    assert_type(others[0].name, str)
    team = Star([Agent("executor", model="small")] * 3, verifier=Agent("verifier", model="large"))
    assert_type(team.with_model("m"), Topology)
    return team


class Own(Topology):
    """The free form."""

    async def solve(self, task: Task, team: Team) -> Outcome:
        """Ask one, ask several, answer."""
        assert_type(await team.ask("a", task), Mailable)
        replies = await team.ask_all([("a", task), ("b", bundle([], parts_wanted=2))])
        assert_type(replies, list[Mailable | Refusal | Failure])
        assert_type([reply for reply in replies if isinstance(reply, Report)], list[Report])
        team.offer(Answer("so far"))
        return Answer("done")


def kinds(reply: Mailable) -> str:
    """Three kinds of mail and no other, or this would not return on every path."""
    match reply:
        case Plan():
            return reply.parts[0].text
        case Report():
            return reply.answer
        case Verdict():
            return reply.reason


def values(text: str) -> None:
    """Values, and two mistakes that are to be found."""
    assert_type(Budget(tokens=1, usd="0.1", calls=None, tool_calls={"search": 2}, seconds=1.5), Budget)
    assert_type(Task(text, "42", "numeric").correct("42"), bool | None)
    assert_type(bundle([Report("42")]), Bundle)
    assert_type(setting("data"), str)
    Budget(tokens="many")  # type: ignore[arg-type]
    Task(text, check="roughly")  # type: ignore[arg-type]


def experiments(tasks: Sequence[Task], tool: Tool) -> None:
    """An experiment takes models and routers, and topologies of the user's own."""
    experiment = Experiment(
        "mine",
        tasks=tasks,
        topologies=[Single(Agent("executor", tools=(tool,))), Own("own", {"a": Agent("executor")})],
        models=["sim/small", StrategyAuction("sim/small", "sim/large")],
        budgets=[Budget(usd=0.02)],
        seeds=range(3),
        match="spend",
        cap=Budget(usd=5),
    )
    assert_type(experiment.name, str)
