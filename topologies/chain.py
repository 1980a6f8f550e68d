"""Owns Chain: a planner, then executors one after another, each building on the last, then a verifier."""

from collections.abc import Iterable, Mapping, Sequence

from runtime.agents.agent import Agent
from runtime.messages import Lost, Plan, Report, bundle
from runtime.protocols import FinishCall, Outcome, Router, Team
from runtime.task import Task
from topologies.base import Topology, giving, judging, named, numbered, team_of
from topologies.replies import joined


class Chain(Topology):
    """Planner → executor[0] → … → executor[n-1] → verifier.

    Calls: n + 2. Depth: n + 2. Messages: 2 n (a part to each executor, a report to the next). Fan-in: 2 (the part and
    the report), 1 for n = 1. A plan with fewer parts than executors ends the chain early; parts beyond them are joined to the
    last executor's. If an executor is refused or fails, the verifier answers on the report before it.
    """

    def __init__(
        self,
        executors: int | Sequence[Agent | Topology] = 3,
        *,
        planner: Agent | None = None,
        verifier: Agent | Topology | None = None,
        name: str | None = None,
        model: str | Router | None = None,
    ) -> None:
        members = team_of("executor", executors, model, what="Chain", reply="report")
        self.length = len(members)
        seats = {
            "planner": giving("plan", "Chain: planner", planner or Agent("planner")).filled(model),
            **numbered("executor", members),
            "verifier": judging("Chain: verifier", verifier or Agent("verifier")).filled(model),
        }
        super().__init__(name or named("Chain", members, verifier=verifier), seats)

    def channels(self) -> Iterable[tuple[str, str]]:
        """Planner to each executor, each executor to the next and, where a plan is short, to the verifier."""
        for i in range(self.length):
            yield "planner", f"executor[{i}]"
            yield f"executor[{i}]", "verifier"
            if i + 1 < self.length:
                yield f"executor[{i}]", f"executor[{i + 1}]"

    def mails(self) -> Mapping[str, int]:
        """Its part and the report before it to each executor, the last report to the verifier."""
        executors = {f"executor[{i}]": 1 if i == 0 else 2 for i in range(self.length)}
        return executors | {"verifier": 1}

    def finish(self) -> Sequence[FinishCall]:
        """The verifier's call over the last report."""
        return (FinishCall("verifier", 1),)

    async def solve(self, task: Task, team: Team) -> Outcome:
        """Plan, hand the work down the chain, verify."""
        plan = await team.ask("planner", bundle(parts_wanted=self.length))
        assert isinstance(plan, Plan)
        report: Report | None = None
        for i, part in enumerate(joined(plan.parts, self.length)):
            [reply] = await team.ask_all([(f"executor[{i}]", bundle([] if report is None else report, part=part))])
            if isinstance(reply, Lost):
                if report is None:
                    raise reply.error
                break
            assert isinstance(reply, Report)
            report = reply
            team.offer(report)
        return await team.ask("verifier", bundle([] if report is None else report), finish=True)
