"""Owns Tree: hubs of hubs. Each hub cuts its part for its children and later joins what they report."""

from collections.abc import Iterable, Sequence
from functools import partial

from policies.voting import majority
from runtime.agents.agent import Agent
from runtime.errors import ConfigError, OrchestrationError
from runtime.messages import Lost, Part, Plan, Report, Verdict, bundle, lost_seat
from runtime.nesting import MAX_SEATS
from runtime.protocols import FinishCall, Mailable, Outcome, Router, Team
from runtime.task import Task
from topologies.base import Topology, check_counts, giving
from topologies.replies import ended, first_lost, gathered, joined

Node = tuple[int, ...]
"""A place in the tree: the root is (), its children (0,), (1,), …"""


class Tree(Topology):
    """A b-ary tree of depth d: hubs above, executors at the leaves.

    Every hub is two seats of one mind: `hub…` plans, `join…` verifies and combines what the children report. Of a plan with more
    parts than children the last child does the rest.

    With h = (b^d - 1) / (b - 1) hubs, or d for b = 1, and b^d leaves: calls 2 h + b^d, depth 2 d + 1, messages
    3 (h - 1) + 2 b^d. Fan-in: b at the root, b + 1 at the joins below it, which are told their part as well.

    Source: the b-ary reduction tree of J. Liu, L. Kong, J. Pei, "Phase Transition for Budgeted Multi-Agent Synergy", 2026
    (arXiv:2601.17311), with planning on the way down.

    Raises:
        ConfigError: a branching or depth below 1, or too many leaves.
    """

    def __init__(
        self,
        branching: int = 2,
        depth: int = 2,
        *,
        hub: Agent | None = None,
        executor: Agent | Topology | None = None,
        verifier: Agent | None = None,
        name: str | None = None,
        model: str | Router | None = None,
    ) -> None:
        check_counts("Tree", 1, branching=branching, depth=depth)
        if branching**depth > MAX_SEATS // 2:
            raise ConfigError(f"Tree(branching={branching}, depth={depth}): at most {MAX_SEATS // 2} leaves")
        self.branching, self.levels = branching, depth
        levels: list[list[Node]] = [[()]]
        for _ in range(depth):
            levels.append([(*node, i) for node in levels[-1] for i in range(branching)])
        self._hubs = [node for level in levels[:-1] for node in level]
        self._leaves = levels[-1]
        hub = giving("plan", "Tree: hub", hub or Agent("hub")).filled(model)
        leaf = giving("report", "Tree: executor", executor or Agent("executor")).filled(model)
        verifier = giving("verdict", "Tree: verifier", verifier or Agent("verifier")).filled(model)
        seats: dict[str, Agent | Topology] = {_seat("hub", node): hub for node in self._hubs}
        seats |= {_seat("executor", node): leaf for node in self._leaves}
        seats |= {_seat("join", node): verifier for node in self._hubs}
        usual = f"Tree({branching},{depth})" if isinstance(leaf, Agent) else f"Tree({branching}, {depth}, {leaf.name})"
        super().__init__(name or usual, seats)

    def channels(self) -> Iterable[tuple[str, str]]:
        """Parts go down from hub to child, results up from child to its hub's join."""
        for node in self._hubs:
            for i in range(self.branching):
                child = (*node, i)
                leaf = len(child) == self.levels
                yield _seat("hub", node), _seat("executor" if leaf else "hub", child)
                yield _seat("executor" if leaf else "join", child), _seat("join", node)
                if not leaf:
                    # The child's join is told which part its hub had cut.
                    yield _seat("hub", node), _seat("join", child)

    def finish(self) -> Sequence[FinishCall]:
        """Every join over its children's results and, below the root, the part that its hub was given."""
        return tuple(FinishCall(_seat("join", node), self.branching + bool(node)) for node in self._hubs)

    def depth(self) -> int:
        """Down to the leaves and up again."""
        return 2 * self.levels + self.deepest("executor")

    async def solve(self, task: Task, team: Team) -> Outcome:
        """Plan downwards, work at the leaves, join upwards."""
        return await self._hub((), None, team)

    async def _hub(self, node: Node, part: Part | None, team: Team) -> Outcome:
        plan = await team.ask(_seat("hub", node), bundle(part=part, parts_wanted=self.branching))
        assert isinstance(plan, Plan)
        results: Sequence[Mailable | Lost | Outcome]
        children = [((*node, i), child) for i, child in enumerate(joined(plan.parts, self.branching))]
        if len(node) + 1 == self.levels:
            results = await team.ask_all([(_seat("executor", child), part) for child, part in children])
        else:
            results = await gathered([partial(self._subtree, child, part, team) for child, part in children])
        reports = [result for result in results if isinstance(result, Report)]
        if not reports:
            return ended(first_lost(results), None)
        if part is None:
            team.offer(majority(reports))
        verdict = await team.ask(_seat("join", node), bundle(reports, part=part), finish=True)
        assert isinstance(verdict, Verdict)
        return Report(verdict.answer, verdict.reason, "" if part is None else part.text, verdict.sender)

    async def _subtree(self, node: Node, part: Part, team: Team) -> Outcome | Lost:
        try:
            return await self._hub(node, part, team)
        except OrchestrationError as error:
            return lost_seat(_seat("hub", node), error)


def _seat(role: str, node: Node) -> str:
    return role + "".join(f"[{i}]" for i in node)
