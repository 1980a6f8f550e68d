"""Owns Independent: n agents on the same task who never hear of each other, and a vote."""

from collections.abc import Sequence

from policies.voting import majority
from runtime.agents.agent import Agent
from runtime.messages import Refusal, Report
from runtime.protocols import Outcome, Router, Team
from runtime.task import Task
from topologies.base import Topology, numbered, team_of


class Independent(Topology):
    """n agents answer the task side by side; the answer given most often wins.

    Ties go to the lowest seat, so in a team of different models put the one you trust most first.

    Calls: n. Depth: 1. Messages: 0. If the budget does not suffice for all of them, the run ends exhausted with the vote of
    those who answered.
    """

    def __init__(self, agents: int | Sequence[Agent | Topology] = 3, *, model: str | Router | None = None) -> None:
        members = team_of("executor", agents, model, what="Independent", reply="report")
        super().__init__(f"Independent({len(members)})", numbered("agent", members))

    async def solve(self, task: Task, team: Team) -> Outcome:
        """Ask all, vote."""
        replies = await team.ask_all([(seat, task) for seat in self.seats()])
        winner = majority([reply for reply in replies if isinstance(reply, Report)])
        team.offer(winner)
        return next((reply for reply in replies if isinstance(reply, Refusal)), winner)
