"""Owns Star: a planner cuts the task, executors work in parallel, a verifier answers (the literature says centralized)."""

from collections.abc import Iterable, Sequence

from policies.voting import majority
from runtime.agents.agent import Agent
from runtime.messages import Plan, Refusal, Report, bundle
from runtime.protocols import FinishCall, Outcome, Router, Team
from runtime.task import Task
from topologies.base import Topology, giving, joined, numbered, team_of


class Star(Topology):
    """Planner → executors in parallel → verifier.

    Calls: n + 2. Depth: 3. Messages: 2 n (a part to each executor, a report from each). Fan-in of the verifier: n. A plan with
    fewer parts than executors leaves some idle; parts beyond them are joined to the last executor's.
    """

    def __init__(
        self,
        executors: int | Sequence[Agent | Topology] = 4,
        *,
        planner: Agent | None = None,
        verifier: Agent | Topology | None = None,
        model: str | Router | None = None,
    ) -> None:
        members = team_of("executor", executors, model, what="Star", reply="report")
        self.width = len(members)
        seats = {
            "planner": giving("plan", "Star: planner", planner or Agent("planner")).filled(model),
            **numbered("executor", members),
            "verifier": (verifier or Agent("verifier")).filled(model),
        }
        super().__init__(f"Star({self.width})", seats)

    def channels(self) -> Iterable[tuple[str, str]]:
        """Planner to each executor, each executor to the verifier."""
        for i in range(self.width):
            yield "planner", f"executor[{i}]"
            yield f"executor[{i}]", "verifier"

    def finish(self) -> Sequence[FinishCall]:
        """The verifier's call over all reports."""
        return (FinishCall("verifier", self.width),)

    async def solve(self, task: Task, team: Team) -> Outcome:
        """Plan, work in parallel, verify."""
        plan = await team.ask("planner", bundle(parts_wanted=self.width))
        assert isinstance(plan, Plan)
        asks = [(f"executor[{i}]", part) for i, part in enumerate(joined(plan.parts, self.width))]
        replies = await team.ask_all(asks)
        reports = [reply for reply in replies if isinstance(reply, Report)]
        team.offer(majority(reports))
        if not reports:
            return next((reply for reply in replies if isinstance(reply, Refusal)), None)
        return await team.ask("verifier", bundle(reports), finish=True)
