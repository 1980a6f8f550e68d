"""Owns Mesh: agents who post, read each other's posts and post again, and a vote (the literature says decentralized)."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations

from policies.voting import majority
from runtime.agents.agent import Agent
from runtime.messages import Lost, Report, bundle
from runtime.protocols import Outcome, Router, Team
from runtime.task import Task
from topologies.base import Topology, check_counts, named, numbered, team_of
from topologies.replies import ended, first_lost


class Mesh(Topology):
    """n agents, d rounds: everybody answers, then reads the last posts of all others beside its own and answers again.

    After the last round the answer given most often wins; ties go to the lowest seat. Nobody leads and nobody judges. A seat
    that is refused or fails drops out; the others go on with its last post.

    Calls: d n. Depth: d. Messages: (d - 1) n (n - 1), each post counted once for every reader. Fan-in: n - 1.

    Source: Y. Du, S. Li, A. Torralba, J. Tenenbaum, I. Mordatch, "Improving Factuality and Reasoning in Language Models through
    Multiagent Debate", ICML 2024; as an architecture "decentralized", Y. Kim et al., "Towards a Science of Scaling Agent
    Systems", 2025 (arXiv:2512.08296).

    Raises:
        ConfigError: fewer than two agents, or no round.
    """

    def __init__(
        self,
        agents: int | Sequence[Agent | Topology] = 3,
        *,
        rounds: int = 2,
        name: str | None = None,
        model: str | Router | None = None,
    ) -> None:
        members = team_of("executor", agents, model, at_least=2, what="Mesh", reply="report")
        check_counts("Mesh", 1, rounds=rounds)
        self.size, self.rounds = len(members), rounds
        super().__init__(name or named("Mesh", members, rounds), numbered("agent", members))

    def channels(self) -> Iterable[tuple[str, str]]:
        """Everybody to everybody else."""
        return permutations(self.seats(), 2)

    def asks(self) -> Mapping[str, int]:
        """Everybody, in every round."""
        return dict.fromkeys(self.seats(), self.rounds)

    def mails(self) -> Mapping[str, int]:
        """All posts, its own included, from the second round on."""
        return dict.fromkeys(self.seats(), self.size if self.rounds > 1 else 0)

    def fan_in(self) -> int:
        """The posts of all others."""
        return self.widest(self.size - 1 if self.rounds > 1 else 0)

    def depth(self) -> int:
        """One after another: the rounds."""
        return self.rounds * self.deepest("agent")

    def messages(self) -> int:
        """Every post but the last ones is read by everybody else."""
        return (self.rounds - 1) * self.size * (self.size - 1) + self.messages_within()

    async def solve(self, task: Task, team: Team) -> Outcome:
        """Post, read, post again; vote."""
        posts: dict[str, Report] = {}
        lost: Lost | None = None
        for _ in range(self.rounds):
            asks = [(seat, bundle(list(posts.values())) if posts else task) for seat in self.seats()]
            replies = await team.ask_all(asks)
            posts |= {seat: reply for (seat, _), reply in zip(asks, replies, strict=True) if isinstance(reply, Report)}
            # In seat order, so that neither a tie of the vote nor the next prompt hangs on who answered first.
            posts = {seat: posts[seat] for seat in self.seats() if seat in posts}
            team.offer(majority(list(posts.values())))
            lost = lost or first_lost(replies)
            if not posts:
                break
        return ended(lost, majority(list(posts.values())))
