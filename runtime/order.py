"""Owns what a seat wants done, beside the request itself, and how the outside answered it."""

from contextvars import ContextVar
from typing import NamedTuple

from runtime.bank.vector import Vector
from runtime.errors import BadModelReply
from runtime.journal import Key
from runtime.models.base import ChatReply
from runtime.usage import Usage

INSIDE: ContextVar[tuple[Key, ...]] = ContextVar("INSIDE", default=())
"""The tool calls in which what is done now was asked for, the outermost first: a tool may ask an agent."""


class Order(NamedTuple):
    """What a seat wants done, beside the request itself."""

    key: Key
    kind: str
    """work, bid, vote, summary, probe or tool."""
    name: str
    """The catalogue's name of the model, or the tool's; spend is grouped by it."""
    least: int = 0
    """Reply tokens below which the call is not worth making."""
    floor: Vector = 0
    """For finishing calls: what was kept back for it."""
    senders: tuple[str, ...] = ()
    scope: str = "run"
    """The innermost scope it counts in."""


class Done(NamedTuple):
    """How the outside answered."""

    used: Vector | None
    """None: unknown, so the whole hold is charged."""
    usage: Usage
    reply: ChatReply
    failed: BadModelReply | None = None
    """Why the reply cannot be used, where what it cost is known all the same."""


NO_REPLY = ChatReply("", None)
"""In the place of a reply that did not come."""
NOT_DONE = Done(None, Usage(0, 0), NO_REPLY)
