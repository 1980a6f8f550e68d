"""Owns Single: one agent alone, the baseline of every comparison."""

from policies.pacing import FixedPacing
from policies.voting import majority
from runtime.agents.agent import Agent
from runtime.errors import BudgetExceeded
from runtime.messages import Report
from runtime.protocols import Outcome, Router, Team
from runtime.task import Task
from topologies.base import Topology, check_member, giving

FILL_TOKENS = 600
"""Effort of one repetition of `Single(fill=True)`: enough for a whole task, and small enough that budgets buy several."""


class Single(Topology):
    """One agent answers the task.

    With `fill=True` it answers again and again, at a fixed effort, until nothing more fits into the budget; the answer given
    most often wins. That is what one agent makes of the money a team would get, and a run that stops so is completed. A budget
    that no repetition need use up is refused beforehand: dollars for a model that costs none, in virtual time a deadline alone.

    Calls: 1. Depth: 1. Messages: 0. With fill all three are for one repetition, since only the budget says how many there are;
    inside another topology it fills the ceiling it was given, or leaves no more than the finish. `name` tells several apart.
    """

    def __init__(
        self,
        agent: Agent | None = None,
        *,
        fill: bool = False,
        name: str | None = None,
        model: str | Router | None = None,
    ) -> None:
        usual = "Single(fill)" if fill else "Single"
        agent = agent or Agent("executor")
        check_member(f"{usual}: agent", agent)
        agent = agent.filled(model)
        super().__init__(name or usual, {"agent": giving("report", usual, agent) if fill else agent})
        self.fill = fill
        if fill:
            self.pacing = FixedPacing(FILL_TOKENS)

    async def solve(self, task: Task, team: Team) -> Outcome:
        """Answer once, or until nothing more fits."""
        if not self.fill:
            return await team.ask("agent", task)
        reports: list[Report] = []
        try:
            while True:
                reply = await team.ask("agent", task)
                assert isinstance(reply, Report)
                reports.append(reply)
        except BudgetExceeded:
            if not reports:
                raise
        finally:
            # Once, however it ends: counting all of them after each would take a long run quadratic time.
            team.offer(majority(reports))
        return majority(reports)
