"""Owns Star: a planner cuts the task, executors work in parallel, a verifier answers (the literature says centralized)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from policies.voting import majority
from runtime.agents.agent import Agent
from runtime.agents.roles import words_for
from runtime.messages import Lost, Plan, Report, bundle
from runtime.protocols import FinishCall, Outcome, Router, Team
from runtime.task import Task
from topologies.base import Topology, check_counts, giving, judging, named, numbered, team_of
from topologies.replies import ended, first_lost, joined

GO_ON = """
Where <mail> shows what the team has found so far, plan only what is still to be done. If nothing is, reply with no parts."""


class Star(Topology):
    """Planner → executors in parallel → verifier; with `rounds`, planner and executors take turns before the verifier answers.

    From the second round on the planner reads each executor's last report and plans what is left; a plan without parts ends
    the rounds. Each executor keeps its own last report in view. If somebody is refused or
    fails, the verifier answers on what there is.

    With n executors and r rounds, calls: r (n + 1) + 1, fewer where the planner stops. Depth: 2 r + 1. Messages: 2 r n (a part
    to each executor, a report from each, in each round). Fan-in: n. A plan with fewer parts than executors leaves some idle;
    parts beyond them are joined to the last executor's.

    Source: "centralized" in Y. Kim et al., "Towards a Science of Scaling Agent Systems", 2025 (arXiv:2512.08296): O(r n) calls,
    depth r, r n messages, where a round's plan and work count as one.

    Raises:
        ConfigError: no executor, or no round.
    """

    def __init__(
        self,
        executors: int | Sequence[Agent | Topology] = 4,
        *,
        rounds: int = 1,
        planner: Agent | None = None,
        verifier: Agent | Topology | None = None,
        name: str | None = None,
        model: str | Router | None = None,
    ) -> None:
        members = team_of("executor", executors, model, what="Star", reply="report")
        check_counts("Star", 1, rounds=rounds)
        self.width, self.rounds = len(members), rounds
        planner = giving("plan", "Star: planner", planner or Agent("planner")).filled(model)
        if rounds > 1 and planner.prompt is None:
            planner = replace(planner, prompt=words_for(planner.role) + GO_ON)
        verifier = judging("Star: verifier", verifier or Agent("verifier")).filled(model)
        seats = {"planner": planner, **numbered("executor", members), "verifier": verifier}
        usual = named("Star", members, *([rounds] if rounds > 1 else []), verifier=verifier)
        super().__init__(name or usual, seats)

    def channels(self) -> Iterable[tuple[str, str]]:
        """Planner to each executor, each executor to the verifier and, for another round, to the planner."""
        for i in range(self.width):
            yield "planner", f"executor[{i}]"
            yield f"executor[{i}]", "verifier"
            if self.rounds > 1:
                yield f"executor[{i}]", "planner"

    def finish(self) -> Sequence[FinishCall]:
        """The verifier's call over all reports."""
        return (FinishCall("verifier", self.width),)

    def asks(self) -> Mapping[str, int]:
        """Everybody but the verifier, in every round."""
        return {seat: 1 if seat == "verifier" else self.rounds for seat in self.seats()}

    def mails(self) -> Mapping[str, int]:
        """All reports to the verifier, and to the planner for another round; to an executor its part, then its own report too."""
        again = self.rounds > 1
        most = {"planner": self.width if again else 0, "verifier": self.width}
        return {seat: most.get(seat, 2 if again else 1) for seat in self.seats()}

    def fan_in(self) -> int:
        """The verifier's."""
        return self.widest(self.width)

    def depth(self) -> int:
        """Plan and work in every round, then verify."""
        return self.rounds * (1 + self.deepest("executor")) + self.deepest("verifier")

    def messages(self) -> int:
        """In every round a part to each executor, and a report from each to whoever goes on."""
        return 2 * self.rounds * self.width + self.messages_within()

    async def solve(self, task: Task, team: Team) -> Outcome:
        """Plan and work in parallel, round after round; verify."""
        found: dict[str, Report] = {}
        lost: Lost | None = None
        for _ in range(self.rounds):
            plan = await self._plan(list(found.values()), team)
            parts = {f"executor[{i}]": part for i, part in enumerate(joined(plan.parts, self.width))}
            if not parts:
                break
            asks = [(seat, bundle(found.get(seat, []), part=part)) for seat, part in parts.items()]
            replies = await team.ask_all(asks)
            found |= {seat: reply for seat, reply in zip(parts, replies, strict=True) if isinstance(reply, Report)}
            found = {seat: found[seat] for seat in self.seats() if seat in found}
            team.offer(majority(list(found.values())))
            lost = first_lost(replies)
            if lost is not None:
                break
        if not found:
            return ended(lost, None)
        return await team.ask("verifier", bundle(list(found.values())), finish=True)

    async def _plan(self, found: list[Report], team: Team) -> Plan:
        [plan] = await team.ask_all([("planner", bundle(found, parts_wanted=self.width))])
        if isinstance(plan, Lost):
            if not found:
                raise plan.error
            return Plan(())
        assert isinstance(plan, Plan)
        return plan
