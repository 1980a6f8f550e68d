"""Owns Cascade: agents asked one after another, cheap ones first, until enough of them agree."""

from collections.abc import Sequence

from policies.stopping import agreed
from policies.voting import majority
from runtime.agents.agent import Agent
from runtime.errors import ConfigError
from runtime.messages import Failure, Lost, Refusal, Report
from runtime.protocols import Outcome, Router, Team
from runtime.task import Task
from topologies.base import Topology, check_counts, named, numbered, team_of
from topologies.replies import ended


class Cascade(Topology):
    """Agents answer the task in the order given, and nobody is asked any more once `agree` answers are the same.

    Give the agents from cheap to dear. They never hear of each other; agreement between different models stands in for a
    judge, and works as far as their errors differ. At the end of the list the answer given most often wins, ties to the one
    that was given last: where the cheap ones disagree, the dearest is believed.

    Calls: n at most, `agree` at least. Depth: the same; `calls()` and `depth()` give the upper bound, which disagreement
    reaches. Messages: 0. If the budget does not suffice to go on, the run ends exhausted with what would win among the answers
    so far. An agent whose model fails is passed over; without enough agreement among the others the run is failed.

    Source: S. Kolawole, D. Dennis, A. Talwalkar, V. Smith, "Agreement-Based Cascading for Efficient Inference", 2024
    (arXiv:2407.02348), where each level is an ensemble; here a level is one agent and votes carry over to the next.

    Raises:
        ConfigError: `agree` is not between 1 and the number of agents.
    """

    def __init__(
        self,
        agents: int | Sequence[Agent | Topology],
        *,
        agree: int = 2,
        name: str | None = None,
        model: str | Router | None = None,
    ) -> None:
        members = team_of("executor", agents, model, what="Cascade")
        check_counts("Cascade", 1, agree=agree)
        if agree > len(members):
            raise ConfigError(f"Cascade: agree={agree} must be at most the number of agents, {len(members)}")
        super().__init__(name or named("Cascade", members, agree), numbered("agent", members))
        self.agree = agree

    async def solve(self, task: Task, team: Team) -> Outcome:
        """Ask the next agent until enough agree."""
        # The latest comes first, since a vote gives ties to what stands first.
        reports: list[Report] = []
        lost: Lost | None = None
        for seat in self.seats():
            [reply] = await team.ask_all([(seat, task)])
            if isinstance(reply, Refusal):
                raise reply.error
            if isinstance(reply, Failure):
                lost = lost or reply
            if isinstance(reply, Report) and reply.answer.strip():
                reports.insert(0, reply)
                team.offer(majority(reports))
            if agreed(reports, self.agree):
                return majority(reports)
        return ended(lost, majority(reports))
