"""Owns Hybrid: a star whose executors also write to each other before the verifier answers."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations

from policies.voting import majority
from runtime.agents.agent import Agent
from runtime.messages import Lost, Part, Plan, Report, bundle
from runtime.protocols import FinishCall, Outcome, Router, Team
from runtime.task import Task
from topologies.base import Topology, check_counts, giving, judging, named, numbered, team_of
from topologies.replies import ended, first_lost, joined


class Hybrid(Topology):
    """Planner → n executors in parallel → p rounds in which each executor reads the others' reports and mends its own → verifier.

    Calls: n (p + 1) + 2. Depth: p + 3. Messages: 2 n + p n (n - 1). Fan-in: n, of the verifier. Executors whose part is missing
    from a short plan stay idle.

    Source: Y. Kim et al., "Towards a Science of Scaling Agent Systems", 2025 (arXiv:2512.08296): an orchestrator with peer edges.

    Raises:
        ConfigError: no executor, or a negative number of peer rounds.
    """

    def __init__(
        self,
        executors: int | Sequence[Agent | Topology] = 3,
        *,
        peer_rounds: int = 1,
        planner: Agent | None = None,
        verifier: Agent | Topology | None = None,
        name: str | None = None,
        model: str | Router | None = None,
    ) -> None:
        members = team_of("executor", executors, model, what="Hybrid", reply="report")
        check_counts("Hybrid", 0, peer_rounds=peer_rounds)
        self.width, self.peer_rounds = len(members), peer_rounds
        seats = {
            "planner": giving("plan", "Hybrid: planner", planner or Agent("planner")).filled(model),
            **numbered("executor", members),
            "verifier": judging("Hybrid: verifier", verifier or Agent("verifier")).filled(model),
        }
        super().__init__(name or named("Hybrid", members, peer_rounds, verifier=verifier), seats)

    def channels(self) -> Iterable[tuple[str, str]]:
        """Those of a star, and every executor to every other."""
        executors = [f"executor[{i}]" for i in range(self.width)]
        for executor in executors:
            yield "planner", executor
            yield executor, "verifier"
        yield from permutations(executors, 2)

    def finish(self) -> Sequence[FinishCall]:
        """The verifier's call over all reports."""
        return (FinishCall("verifier", self.width),)

    def asks(self) -> Mapping[str, int]:
        """Executors for their part and in each peer round; the others once."""
        return {seat: 1 if seat in ("planner", "verifier") else 1 + self.peer_rounds for seat in self.seats()}

    def mails(self) -> Mapping[str, int]:
        """All reports to the verifier; to an executor its part and, in a peer round, all reports beside it, its own included."""
        most = 1 + self.width if self.peer_rounds else 1
        return {seat: self.width if seat == "verifier" else most for seat in self.seats() if seat != "planner"}

    def fan_in(self) -> int:
        """The verifier's. An executor reads more at once, but among that are its own report and a part it was told before."""
        return self.widest(self.width)

    def depth(self) -> int:
        """Plan, work, peer rounds, verify."""
        return 1 + (1 + self.peer_rounds) * self.deepest("executor") + self.deepest("verifier")

    def messages(self) -> int:
        """A part down and a report up for each executor, and all to all in each peer round."""
        return 2 * self.width + self.peer_rounds * self.width * (self.width - 1) + self.messages_within()

    async def solve(self, task: Task, team: Team) -> Outcome:
        """Plan, work in parallel, mend each other's work, verify."""
        plan = await team.ask("planner", bundle(parts_wanted=self.width))
        assert isinstance(plan, Plan)
        parts = {f"executor[{i}]": part for i, part in enumerate(joined(plan.parts, self.width))}
        reports: dict[str, Report] = {}
        lost: Lost | None = None
        for _ in range(1 + self.peer_rounds):
            asks = [(seat, bundle(list(reports.values()), part=part)) for seat, part in parts.items()]
            replies = await team.ask_all(asks)
            mended = {seat: reply for (seat, _), reply in zip(asks, replies, strict=True) if isinstance(reply, Report)}
            reports = {seat: (reports | mended)[seat] for seat in parts if seat in reports | mended}
            team.offer(majority(list(reports.values())))
            lost = first_lost(replies)
            if lost is not None:
                break
            # Known to its executor by now: said again in a later round, it is no message of the planner's.
            parts = {seat: Part(part.text, part.needs) for seat, part in parts.items()}
        if not reports:
            return ended(lost, None)
        return await team.ask("verifier", bundle(list(reports.values())), finish=True)
