"""Owns what all topologies share: name, seats, formulas, how a model is filled in, and the checks of their size."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from itertools import groupby
from typing import TypeVar

from policies.pacing import EvenPacing
from runtime.agents.agent import Agent
from runtime.agents.roles import reply_of
from runtime.budget import Budget
from runtime.errors import ConfigError
from runtime.messages import KINDS
from runtime.nesting import MAX_SEATS
from runtime.protocols import FinishCall, Mailable, Outcome, Pacing, Router, Team
from runtime.task import Task
from topologies.drawing import mermaid


class Topology:
    """Base of all topologies, and of your own: give it seats and channels, and program `solve`.

    A subclass hands name and seats to `__init__`, overrides `channels` and `finish` where there are any, and programs `solve`.
    Everything a topology knows is fixed when it is built; one object serves any number of runs at once.

    Its formulas say what one full run comes to, in which every plan has a part for everybody and nobody stops early; other
    runs come to less. `calls`, `depth`, `messages` and `fan_in` follow from `asks` and `mails`, and of seats that are
    topologies they count what happens inside.
    """

    message_tokens: int = 256
    """Length m of a message along its channels; a longer mail is clipped on delivery."""
    summarise: bool = False
    """Whether a longer mail is told shorter by its reader's model instead of clipped. Each such call is paid by the reader,
    and counts in no formula here, because how many mails are too long is not known beforehand; what the budget refuses is
    clipped. What is sent to a seat that is a topology has no one reader, and is always clipped."""
    pacing: Pacing = EvenPacing()
    """How the budget becomes effort, in its own seats; a topology in a seat brings a pacing and a length of its own."""

    ceiling: Budget | None = None
    """What all of it together may spend where it is a seat of another topology; see `within`."""

    fill: bool = False
    """Whether it goes on until the budget refuses it, so that a budget which never would is an error."""

    def __init__(self, name: str, seats: "Mapping[str, Agent | Topology]") -> None:
        if not seats:
            raise ConfigError(f"{name}: a topology needs at least one seat")
        if len(seats) > MAX_SEATS:
            raise ConfigError(f"{name}: {len(seats)} seats are too many; at most {MAX_SEATS}")
        self.name = name
        for seat, member in seats.items():
            check_member(f"{name}: {seat}", member)
        self._seats = dict(seats)

    def seats(self) -> "Mapping[str, Agent | Topology]":
        """The members by seat, in the order in which they are served when it matters; one may be a whole topology."""
        return self._seats

    def channels(self) -> Iterable[tuple[str, str]]:
        """Permitted directions (sender, receiver); everybody may receive from the task. By default none."""
        return ()

    def finish(self) -> Sequence[FinishCall]:
        """The calls that end a run with an answer, so that budget is kept back for them. By default none."""
        return ()

    def asks(self) -> Mapping[str, int]:
        """How often each seat is asked. By default once."""
        return dict.fromkeys(self._seats, 1)

    def mails(self) -> Mapping[str, int]:
        """The most messages that a seat's prompt holds: parts of a plan, mail of others, and what it said itself where it is
        shown that again; the prompt is priced by it. By default one of each sender."""
        return Counter(receiver for _, receiver in self.channels())

    def calls(self) -> int:
        """Asks of agents, inner ones included; the even split of a budget rests on it."""
        return sum(n * calls_of(self._seats[seat]) for seat, n in self.asks().items())

    def depth(self) -> int:
        """How many of these calls wait for one another, while nobody waits for budget. By default all, as an upper bound."""
        return sum(n * depth_of(self._seats[seat]) for seat, n in self.asks().items())

    def messages(self) -> int:
        """Mails along channels. By default each ask brings all that a seat may read, which is an upper bound."""
        asks = self.asks()
        return sum(n * asks.get(seat, 0) for seat, n in self.mails().items()) + self.messages_within()

    def messages_within(self) -> int:
        """Those among them that stay inside of seats."""
        asks = self.asks()
        return sum(asks.get(seat, 0) * t.messages() for seat, t in self._seats.items() if isinstance(t, Topology))

    def fan_in(self) -> int:
        """The most messages of others that any seat reads at once. By default as many as it may read."""
        return self.widest(max(self.mails().values(), default=0))

    def widest(self, fan_in: int) -> int:
        """A fan-in, or a larger one inside of seats."""
        within = (member.fan_in() for member in self._seats.values() if isinstance(member, Topology))
        return max([fan_in, *within])

    def deepest(self, role: str) -> int:
        """Depth of the deepest seat whose path begins so."""
        return max(depth_of(member) for seat, member in self._seats.items() if seat.startswith(role))

    def with_model(self, model: str | Router) -> "Topology":
        """The same topology with `model` in every seat that has none of its own."""
        twin = copy(self)
        twin._seats = {seat: member.filled(model) for seat, member in self._seats.items()}
        return twin

    def filled(self, model: str | Router | None) -> "Topology":
        """The same as `with_model`, under the name that agents have for it; None changes nothing."""
        return self if model is None else self.with_model(model)

    def within(self, ceiling: Budget) -> "Topology":
        """The same topology, to be a seat of another one, with a limit to what all of it together may spend there.

        A ceiling sets nothing aside: what it leaves is for whoever needs it.
        """
        twin = copy(self)
        twin.ceiling = ceiling
        return twin

    def draw(self) -> str:
        """The wiring as a Mermaid flowchart, to be pasted where Mermaid is understood; seats that are topologies are subgraphs.

        Of a level with more than 200 seats only their number is named. `ostrom draw` makes a picture of it.
        """
        return mermaid(self)

    async def solve(self, task: Task, team: Team) -> Outcome:
        """Work on the task with the team and return the answer."""
        raise ConfigError(f"{self.name}: a topology must program solve(self, task, team)")


def team_of(
    role: str,
    agents: int | Sequence[Agent | Topology],
    model: str | Router | None,
    *,
    at_least: int = 1,
    what: str,
    reply: str | None = None,
) -> list[Agent | Topology]:
    """Members from the shorthand: a number of agents in a role, or the members themselves.

    Raises:
        ConfigError: neither of them, fewer than `at_least`, more than a topology may have, or one who does not give the typed
            reply asked for.
    """
    if isinstance(agents, bool | str) or not isinstance(agents, int | Sequence):
        raise ConfigError(f"{what}: {agents!r} is neither a number of agents nor a list of them")
    n = agents if isinstance(agents, int) else len(agents)
    if not at_least <= n <= MAX_SEATS:
        raise ConfigError(f"{what} needs {at_least} to {MAX_SEATS} agents, not {n}")
    members: list[Agent | Topology] = [Agent(role)] * agents if isinstance(agents, int) else list(agents)
    for member in members:
        check_member(f"{what}: {role}", member)
    if reply is not None:
        members = [giving(reply, f"{what}: {role}", member) for member in members]
    return [member.filled(model) for member in members]


def calls_of(member: Agent | Topology) -> int:
    """Calls of one ask."""
    return member.calls() if isinstance(member, Topology) else 1


def depth_of(member: Agent | Topology) -> int:
    """Calls of one ask that wait for one another."""
    return member.depth() if isinstance(member, Topology) else 1


def named(kind: str, members: Sequence[Agent | Topology], *more: object, **others: object) -> str:
    """A label for tables: how many members, or, where a topology is among them, who they are, as in `Star(Chain(2)*2, Single)`.

    Args:
        more: what else tells two of a kind apart, in the order of the arguments.
        others: members in other seats; they are named where they are topologies.
    """
    said = [str(len(members))]
    if any(isinstance(member, Topology) for member in members):
        runs = ((name, len(list(run))) for name, run in groupby(map(_title, members)))
        said = [name if n == 1 else f"{name}*{n}" for name, n in runs]
    said += [f"{seat}={_title(member)}" for seat, member in others.items() if isinstance(member, Topology)]
    nested = any("(" in part or not part.isdigit() for part in said)
    return f"{kind}({(', ' if nested else ',').join([*said, *map(str, more)])})"


def _title(member: object) -> str:
    return member.name if isinstance(member, Topology) else getattr(member, "role", "")


Member = TypeVar("Member", bound=Agent | Topology)


def check_member(where: str, member: object) -> None:
    """Check that something can sit in a seat.

    Raises:
        ConfigError: it is neither an agent nor a topology, or an agent whose role replies to routers only.
    """
    if not isinstance(member, Agent | Topology):
        raise ConfigError(f"{where}: {member!r} is neither an Agent nor a topology")
    if isinstance(member, Agent) and not issubclass(KINDS[reply_of(member.role)], Mailable):
        raise ConfigError(
            f"{where}: Agent({member.role!r}) gives a {reply_of(member.role)}, which only routers ask for; "
            "take another role, and words of your own as prompt="
        )


def judging(what: str, member: Agent | Topology) -> Agent | Topology:
    """The member, if what it gives can be the answer over reports: a verdict or, as topologies and most roles do, a report.

    Raises:
        ConfigError: it gives something else.
    """
    report = isinstance(member, Agent) and reply_of(member.role) == "report"
    return member if report or isinstance(member, Topology) else giving("verdict", what, member)


def check_counts(what: str, least: int, **counts: int) -> None:
    """Check settings that count something.

    Raises:
        ConfigError: one is no whole number, or below `least`.
    """
    for name, value in counts.items():
        if not isinstance(value, int) or value < least:
            raise ConfigError(f"{what}: {name}={value!r} must be a whole number, {least} or more")


def giving(reply: str, what: str, agent: Member) -> Member:
    """The agent, if its role gives this typed reply; a topology in its seat gives a report.

    Raises:
        ConfigError: it gives another, so the topology could do nothing with what it says.
    """
    check_member(what, agent)
    if isinstance(agent, Topology):
        if reply != "report":
            raise ConfigError(
                f"{what}: {agent.name} as a seat gives a report, and a {reply} is needed here; take an Agent"
            )
        return agent
    if reply_of(agent.role) != reply:
        raise ConfigError(
            f"{what}: Agent({agent.role!r}) gives a {reply_of(agent.role)}, and a {reply} is needed here; "
            "words of your own go into prompt="
        )
    return agent


def numbered(seat: str, agents: Sequence[Agent | Topology]) -> dict[str, Agent | Topology]:
    """Seat paths `seat[0]`, `seat[1]`, ... for several agents of a kind."""
    return {f"{seat}[{i}]": agent for i, agent in enumerate(agents)}
