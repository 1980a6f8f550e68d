"""Owns Graph: the user's own nodes and edges. A node starts as soon as all its senders have reported; there is no barrier."""

from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

import anyio

from runtime.agents.agent import Agent
from runtime.errors import BudgetExceeded, ConfigError, OrchestrationError
from runtime.messages import Message, Plan, Refusal, Report, Verdict, bundle
from runtime.protocols import FinishCall, Mailable, Outcome, Router, Team
from runtime.task import Task
from topologies.base import Topology


class Graph(Topology):
    """Agents as nodes, mail along edges. The one node nobody listens to answers.

    Calls: one per node. Messages: one per edge. Nodes without senders get the task alone; every other node gets the task and
    the mail of its senders, in the order of the nodes. When a node is refused for lack of budget, those behind it go on with the
    mail they have; the run then ends exhausted.

    Raises:
        ConfigError: an edge to an unknown node, an edge named twice or from a node to itself, a cycle (with its path), or
            not exactly one node that nobody listens to.
    """

    def __init__(
        self,
        nodes: Mapping[str, Agent],
        edges: Sequence[tuple[str, str]],
        *,
        name: str = "graph",
        model: str | Router | None = None,
    ) -> None:
        super().__init__(name, {seat: agent.filled(model) for seat, agent in nodes.items()})
        self.edges = tuple(edges)
        self._senders: dict[str, list[str]] = {seat: [] for seat in nodes}
        for sender, receiver in self.edges:
            for end in (sender, receiver):
                if end not in nodes:
                    raise ConfigError(f"{name}: edge {sender} → {receiver} names {end!r}, which is no node")
            if sender == receiver:
                raise ConfigError(f"{name}: node {sender!r} writes to itself")
            if sender in self._senders[receiver]:
                raise ConfigError(f"{name}: edge {sender} → {receiver} is there twice")
            self._senders[receiver].append(sender)
        try:
            self._order = tuple(TopologicalSorter(self._senders).static_order())[::-1]
        except CycleError as error:
            raise ConfigError(f"{name}: the wiring has a cycle: {' → '.join(error.args[1])}") from None
        last = [seat for seat in nodes if all(sender != seat for sender, _ in self.edges)]
        if len(last) != 1:
            raise ConfigError(f"{name}: exactly one node must have no listener, to answer; there are {', '.join(last)}")
        self._last = last[0]

    def channels(self) -> Iterable[tuple[str, str]]:
        """The edges."""
        return self.edges

    def finish(self) -> Sequence[FinishCall]:
        """The answering node over its senders' mail."""
        return (FinishCall(self._last, len(self._senders[self._last])),)

    async def solve(self, task: Task, team: Team) -> Outcome:
        """Let every node act as soon as its mail is complete."""
        done = {seat: anyio.Event() for seat in self.seats()}
        replies: dict[str, Mailable] = {}
        refused: dict[str, Refusal] = {}
        failed: dict[str, OrchestrationError] = {}

        async def act(seat: str) -> None:
            for sender in self._senders[seat]:
                await done[sender].wait()
            if any(sender in failed for sender in self._senders[seat]):
                failed[seat] = next(failed[sender] for sender in self._senders[seat] if sender in failed)
                done[seat].set()
                return
            mails = [replies[sender] for sender in self.seats() if sender in self._senders[seat] and sender in replies]
            message: Message = bundle(mails) if mails else task
            try:
                replies[seat] = await team.ask(seat, message, finish=seat == self._last)
            except BudgetExceeded as error:
                refused[seat] = Refusal(seat, *error.args)
            except OrchestrationError as error:
                failed[seat] = error
            # Of those who have answered, the one furthest down the wiring, whoever came last: ties must not decide.
            answers = (replies[seat] for seat in self._order if seat in replies)
            team.offer(next((answer for answer in answers if not isinstance(answer, Plan)), None))
            done[seat].set()

        async with anyio.create_task_group() as group:
            for seat in self.seats():
                group.start_soon(act, seat)
        for seat in self.seats():
            if seat in failed:
                raise failed[seat]
        for seat in self.seats():
            if seat in refused:
                return refused[seat]
        answer = replies[self._last]
        return answer if isinstance(answer, (Report, Verdict)) else None
