"""Owns the seats of a run that other hosts work for: which one it is, and what stands in for model and tools at home.

The home host of a run keeps order, money, mail and journal. Another host is asked for one thing at a time, after it was held
and sent: to complete a request, or to use a tool. It keeps nothing of the run, so that the answers are those of a run whose
seats are all together, and a host that is lost takes nothing with it but the call it was at. A tool travels with each call,
so one that keeps something in itself between two of them cannot be spread.

A virtual run waits for such a call with its whole thread, so that its clock cannot jump while somebody works elsewhere; the
other host works in virtual time of its own and tells how long that took, and the seat then naps for as long.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, cast, get_args

from anyio import from_thread

from runtime.agents.agent import Agent
from runtime.agents.tools import Tool, use
from runtime.errors import AgentFailed, ConfigError, HostLost, ModelUnavailable, OrchestrationError
from runtime.models.base import ChatModel, ChatReply, ChatRequest
from runtime.trampoline import nap_s

Placement = Literal["together", "spread"]
Equipment = tuple[tuple[str, float], ...]
"""What a host has been given of its machine, by Ray's names, sorted; empty for ordinary ones."""


def is_spread(placement: Placement) -> bool:
    """Whether seats work on all hosts.

    Raises:
        ConfigError: there is no such placement.
    """
    if placement not in get_args(Placement):
        raise ConfigError(f"placement={placement!r} must be one of {', '.join(map(repr, get_args(Placement)))}")
    return placement == "spread"


def equipment(agent: Agent) -> Equipment:
    """What the host of an agent's seat must have."""
    return tuple(sorted((agent.resources or {}).items()))


def provide_nothing(equipment: Collection[Equipment]) -> None:
    """Check that nothing is needed but the one host of this process.

    Raises:
        ConfigError: a host with some equipment is.
    """
    for wanted in sorted(equipment):
        raise ConfigError(
            f'a seat asks for a host with {told(wanted)}, and hosts are told apart on a cluster only; use Runtime("local") or '
            "the address of a Ray head, or give the Agent no resources"
        )


def told(wanted: Equipment) -> str:
    """Equipment, as it is to be read."""
    return ", ".join(f"{name} {amount:g}" for name, amount in wanted)


class Peer(Protocol):
    """A host, as another one reaches it."""

    @property
    def name(self) -> str:
        """What errors call it."""
        ...

    @property
    def id(self) -> str:
        """Tells it from the host that stands in its place once it is lost."""
        ...

    async def __call__(self, method: str, *args: object) -> Any:
        """Call a method of the host.

        Raises:
            HostLost: it is gone.
        """
        ...


@dataclass(frozen=True, slots=True)
class Peers:
    """All hosts of a runtime, for the one that is a run's home."""

    home: int
    """Its own number; it asks nothing of itself."""
    hosts: Sequence[Peer]
    """Over which seats are spread; none where they stay together."""
    equipped: Mapping[Equipment, Peer] = field(default_factory=dict)
    """Those that have what some seats ask for. The cluster starts one that is lost again, under its old name."""


class Spread:
    """The seats of one run and the hosts that work for them: seat i has the i-th host from home on, and the next that lives,
    unless it asks for equipment.

    Args:
        agents: by seat, in the order of the wiring.
        lost: ids of hosts found lost, shared by all runs of the home host; each costs one of them a call.
    """

    def __init__(self, peers: Peers, agents: Mapping[str, Agent], lost: set[str], *, virtual: bool) -> None:
        self.disturbed = False
        """Whether a live call was lost with its host, so that its outcome is not known."""
        self.virtual = virtual
        self._peers = peers
        self._numbers = {seat: i for i, seat in enumerate(agents)}
        wanted = {seat: equipment(agent) for seat, agent in agents.items() if agent.resources}
        self.fixed = {seat: peers.equipped[one] for seat, one in wanted.items() if one in peers.equipped}
        """Seats that one host alone can work for; in a replay, which calls nobody, there need not be one."""
        self._lost = lost

    def host_of(self, seat: str) -> Peer | None:
        """The host that works for a seat now; None is home itself."""
        if seat in self.fixed:
            return self.fixed[seat]
        home, hosts = self._peers.home, self._peers.hosts
        for turn in range(len(hosts)):
            i = (home + self._numbers[seat] + turn) % len(hosts)
            if i == home:
                break
            if hosts[i].id not in self._lost:
                return hosts[i]
        return None

    def model(self, seat: str, name: str, model: ChatModel) -> ChatModel:
        """The model as the seat is to call it."""
        return model if self.host_of(seat) is None else cast("ChatModel", _FarModel(self, seat, name, model))

    def tool(self, seat: str, tool: Tool) -> Tool:
        """The tool as the seat is to use it."""
        return tool if self.host_of(seat) is None else replace(tool, call=_FarTool(self, seat, tool))

    async def ask(self, host: Peer, method: str, *args: object) -> Any:
        """Have a host do something.

        Raises:
            HostLost: it is gone; in virtual runs, where nobody is billed, another may simply be asked.
        """
        try:
            if not self.virtual:
                return await host(method, *args)
            seconds, outcome = from_thread.run(host, "in_virtual_time", method, *args)
        except HostLost as lost:
            if lost.host == host.name:
                if host not in self.fixed.values():
                    self._lost.add(host.id)
                self.disturbed = self.disturbed or not self.virtual
            raise
        await nap_s(seconds)
        if isinstance(outcome, OrchestrationError):
            raise outcome
        return outcome


class _FarModel:
    """A model whose completions another host gives; everything else about it happens at home."""

    def __init__(self, spread: Spread, seat: str, name: str, model: ChatModel) -> None:
        self._spread, self._seat, self._name, self._model = spread, seat, name, model

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._model, attribute)

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer, from wherever the seat is.

        Raises:
            ModelUnavailable: a live call was lost with its host. Nobody knows whether the model was called, so it is charged
                whole, and tried again elsewhere.
        """
        # A copy elsewhere has not seen what was found out about the endpoint.
        learned = getattr(getattr(self._model, "spec", None), "limit_field", "")
        while (host := self._spread.host_of(self._seat)) is not None:
            try:
                told = (self._name, request, f"seat {self._seat}", learned)
                return cast("ChatReply", await self._spread.ask(host, "complete", *told))
            except HostLost as lost:
                if not self._spread.virtual:
                    raise ModelUnavailable(self._name, str(lost)) from None
                if lost.host != host.name or self._seat in self._spread.fixed:
                    raise
        return await self._model.complete(request)


class _FarTool:
    """A tool that another host uses."""

    def __init__(self, spread: Spread, seat: str, tool: Tool) -> None:
        self._spread, self._seat, self._tool = spread, seat, tool

    async def __call__(self, **arguments: Any) -> str:
        """Use it.

        Raises:
            AgentFailed: a live call was lost with its host. It is not repeated, because the tool may have done its work; the
                agent is told.
        """
        while (host := self._spread.host_of(self._seat)) is not None:
            try:
                return str(await self._spread.ask(host, "use", self._tool, cast("Mapping[str, Any]", arguments)))
            except HostLost as lost:
                if not self._spread.virtual or lost.host != host.name or self._seat in self._spread.fixed:
                    raise AgentFailed(f"tool {self._tool.name}", "HostLost", str(lost)) from None
        return await use(self._tool, arguments)
