"""Owns Graph: the user's own nodes and edges. A node starts as soon as all its senders have ended; there is no barrier."""

from collections.abc import Iterable, Mapping, Sequence

import anyio
from anyio.abc import TaskGroup

from runtime.agents.agent import Agent
from runtime.agents.roles import reply_of
from runtime.errors import BudgetExceeded, OrchestrationError
from runtime.messages import Mail, Message, Part, Plan, Refusal, bundle
from runtime.protocols import FinishCall, Mailable, Outcome, Router, Team
from runtime.task import Task
from topologies.base import Topology, depth_of
from topologies.replies import joined
from topologies.wiring import Node, Wires, wires_of


class Graph(Topology):
    """Agents, or topologies, as nodes, mail along edges. The one node nobody listens to answers.

    Nodes without senders get the task alone; every other node waits for all of its senders, joins them, and gets the task and
    their mail in the order of the nodes. A node may be several members: `{"executor": [Agent("executor")] * 4}` makes the seats
    `executor[0]` … `executor[3]`, and an edge to or from `executor` is one to or from each of them. Where a planner writes to
    such a node, the plan fans out: each seat gets its part and no more, seats for which there is none stay idle, parts beyond
    the seats are joined to the last one's. A node all of whose senders stayed idle stays idle, too, unless it is to answer.

    Calls: one per seat. Messages: one per edge between seats. Depth: the longest path. Fan-in: the most edges into one seat. A
    plan that leaves seats idle makes all four upper bounds. When a node is refused for lack of budget, those behind it go on
    with the mail they have; the run then ends exhausted. When a model fails, those who hear somebody else go on, too; the run
    then ends failed.

    Raises:
        ConfigError: too many nodes, an edge to an unknown node, an edge named twice or from a node to itself, a cycle, a node
            without edges, or not exactly one node that nobody listens to; the message shows the path.
    """

    def __init__(
        self,
        nodes: Mapping[str, Node],
        edges: Sequence[tuple[str, str]],
        *,
        name: str = "graph",
        model: str | Router | None = None,
    ) -> None:
        wires = wires_of(name, nodes, edges)
        super().__init__(name, {seat: member.filled(model) for seat, member in wires.seats.items()})
        self._senders, self._order, self._last = wires.senders, wires.order, wires.order[-1]
        self._listeners: dict[str, list[str]] = {seat: [] for seat in wires.seats}
        for sender, receiver in self.channels():
            self._listeners[sender].append(receiver)
        self._ranks = {seat: _ranks(seat, wires) for seat, member in wires.seats.items() if _plans(member)}

    def channels(self) -> Iterable[tuple[str, str]]:
        """The edges between seats."""
        return ((sender, seat) for seat, senders in self._senders.items() for sender in senders)

    def finish(self) -> Sequence[FinishCall]:
        """The answering node over its senders' mail."""
        return (FinishCall(self._last, len(self._senders[self._last])),)

    def depth(self) -> int:
        """The longest path."""
        deep: dict[str, int] = {}
        for seat in self._order:
            deep[seat] = depth_of(self.seats()[seat]) + max((deep[s] for s in self._senders[seat]), default=0)
        return deep[self._last]

    async def solve(self, task: Task, team: Team) -> Outcome:
        """Let every node act as soon as its mail is complete."""
        flow = _Flow(self, task, team)
        async with anyio.create_task_group() as group:
            for seat, senders in self._senders.items():
                if not senders:
                    group.start_soon(flow.act, seat, group)
        return flow.outcome()


class _Flow:
    """One run of a graph. Whoever ends starts those who waited for nobody else."""

    def __init__(self, graph: Graph, task: Task, team: Team) -> None:
        self.graph, self.task, self.team = graph, task, team
        self.missing = {seat: len(senders) for seat, senders in graph._senders.items()}
        self.replies: dict[str, Mailable] = {}
        self.refused: dict[str, Refusal] = {}
        self.failed: dict[str, OrchestrationError] = {}

    async def act(self, seat: str, group: TaskGroup) -> None:
        """Ask a node whose senders have all ended, and start those who waited for it last."""
        senders = self.graph._senders[seat]
        broken = next((self.failed[sender] for sender in senders if sender in self.failed), None)
        if broken is not None and not any(sender in self.replies for sender in senders):
            self.failed[seat] = broken
        elif (message := self._message(seat)) is not None:
            await self._ask(seat, message)
        for listener in self.graph._listeners[seat]:
            self.missing[listener] -= 1
            if not self.missing[listener]:
                group.start_soon(self.act, listener, group)

    async def _ask(self, seat: str, message: Message) -> None:
        try:
            self.replies[seat] = await self.team.ask(seat, message, finish=seat == self.graph._last)
        except BudgetExceeded as error:
            self.refused[seat] = Refusal(seat, *error.args)
        except OrchestrationError as error:
            self.failed[seat] = error
        # Of those who have answered, the one furthest down the wiring, whoever came last: ties must not decide.
        answers = (self.replies[s] for s in reversed(self.graph._order) if s in self.replies)
        self.team.offer(next((answer for answer in answers if not isinstance(answer, Plan)), None))

    def _message(self, seat: str) -> Message | None:
        """What a node is asked; None where it stays idle."""
        senders = self.graph._senders[seat]
        mails: list[Mail] = []
        parts: list[Part] = []
        for sender in senders:
            reply = self.replies.get(sender)
            rank, size = self.graph._ranks.get(sender, {}).get(seat, (0, 0))
            if isinstance(reply, Plan) and size:
                parts += joined(reply.parts, size)[rank : rank + 1]
            elif reply is not None:
                mails.append(reply)
        heard = mails or parts or any(sender in self.refused for sender in senders)
        if senders and not heard and seat != self.graph._last:
            return None
        wanted = max((size for _, size in self.graph._ranks.get(seat, {}).values()), default=0)
        if not (mails or parts or wanted):
            return self.task
        # Two planners may write to one seat: one part is what it works on, the other is mail beside it.
        return bundle([*parts[1:], *mails], part=parts[0] if parts else None, parts_wanted=wanted)

    def outcome(self) -> Outcome:
        """The answering node's reply, or the first in seat order of what went wrong."""
        for seat in self.graph.seats():
            if seat in self.failed:
                raise self.failed[seat]
        for seat in self.graph.seats():
            if seat in self.refused:
                return self.refused[seat]
        return self.replies.get(self.graph._last)


def _plans(member: Agent | Topology) -> bool:
    return isinstance(member, Agent) and reply_of(member.role) == "plan"


def _ranks(seat: str, wires: Wires) -> dict[str, tuple[int, int]]:
    """To whom a planner's plan fans out: which part is whose, and among how many it is cut."""
    return {
        receiver: (rank, len(group))
        for group in wires.groups.values()
        for rank, receiver in enumerate(group)
        if seat in wires.senders[receiver]
    }
