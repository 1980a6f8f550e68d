"""Owns Independent: n agents on the same task who never hear of each other, and one answer made of theirs."""

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from policies.voting import majority
from runtime.agents.agent import Agent
from runtime.errors import ConfigError
from runtime.messages import Report, bundle
from runtime.protocols import Answer, FinishCall, Outcome, Router, Team
from runtime.task import Task
from topologies.base import Topology, judging, named, numbered, team_of
from topologies.replies import ended, first_lost

Combine = Literal["vote", "concatenate", "best"]


class Independent(Topology):
    """n agents answer the task side by side, and `combine` says what becomes of their answers.

    - `"vote"`: the answer given most often wins; ties go to the lowest seat, so in a team of different models put the one you
      trust most first.
    - `"concatenate"`: all answers, one below the other, in seat order; nobody compares them.
    - `"best"`: a verifier reads all of them and answers (best of n).

    Calls: n. Depth: 1. Messages: 0. With `"best"`: n + 1, 2, n, and fan-in n. If the budget does not suffice for all, the
    run ends exhausted with what becomes of the answers there are, and failed if a model did; with `"best"` the verifier
    still answers on those.

    Source: concatenation is "independent" in Y. Kim et al., "Towards a Science of Scaling Agent Systems", 2025
    (arXiv:2512.08296); the vote is self-consistency over agents (see `policies.voting.majority`).

    Raises:
        ConfigError: no agents, another `combine`, or a verifier for one that needs none.
    """

    def __init__(
        self,
        agents: int | Sequence[Agent | Topology] = 3,
        *,
        combine: Combine = "vote",
        verifier: Agent | Topology | None = None,
        name: str | None = None,
        model: str | Router | None = None,
    ) -> None:
        members = team_of("executor", agents, model, what="Independent", reply="report")
        if combine not in get_args(Combine):
            raise ConfigError(f"Independent: combine={combine!r} must be one of {', '.join(get_args(Combine))}")
        if verifier is not None and combine != "best":
            raise ConfigError(f'Independent: combine={combine!r} needs no verifier; take combine="best"')
        seats = numbered("agent", members)
        if combine == "best":
            seats["verifier"] = judging("Independent: verifier", verifier or Agent("verifier")).filled(model)
        self.size, self.combine = len(members), combine
        usual = named("Independent", members, *([] if combine == "vote" else [combine]), verifier=verifier)
        super().__init__(name or usual, seats)

    def channels(self) -> Iterable[tuple[str, str]]:
        """Each agent to the verifier, if there is one."""
        return [(f"agent[{i}]", "verifier") for i in range(self.size)] if self.combine == "best" else []

    def finish(self) -> Sequence[FinishCall]:
        """The verifier's call over all answers, if there is one."""
        return [FinishCall("verifier", self.size)] if self.combine == "best" else []

    def depth(self) -> int:
        """All at once, then the verifier."""
        return self.deepest("agent") + (self.deepest("verifier") if self.combine == "best" else 0)

    async def solve(self, task: Task, team: Team) -> Outcome:
        """Ask all; combine."""
        replies = await team.ask_all([(f"agent[{i}]", task) for i in range(self.size)])
        reports = [reply for reply in replies if isinstance(reply, Report)]
        if self.combine == "best" and reports:
            team.offer(majority(reports))
            return await team.ask("verifier", bundle(reports), finish=True)
        together = Answer("\n\n".join(report.answer for report in reports)) if reports else None
        answer = together if self.combine == "concatenate" else majority(reports)
        team.offer(answer)
        return ended(first_lost(replies), answer)
