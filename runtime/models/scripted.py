"""Owns ScriptedModel: a model that answers from a list or a function, with exactly the usage it was told."""

from collections.abc import Callable, Sequence
from decimal import Decimal

from runtime.clock import on_grid_s
from runtime.errors import ConfigError, ModelRefused
from runtime.messages import Reply, reply_json
from runtime.models.base import ChatReply, ChatRequest, ToolCall
from runtime.trampoline import nap_s
from runtime.usage import Price, Usage, pico_usd

Line = str | Reply | ChatReply | tuple[ToolCall, ...]
"""One scripted answer: free text, a typed reply, tool calls, or a whole ChatReply (which brings its own usage)."""


class ScriptedModel:
    """Answers from a script. Its output cannot be shrunk: a limit below it is refused before any work.

    Args:
        replies: a list, used in the order of the calls and then from its start again, or a function of the request. A list
            of several answers by arrival, over all runs, so its results are marked D2; a function keeps them D1.
        input_tokens: prompt tokens of each call, however long its prompt is.
        output_tokens: reply tokens of each call.
        latency_s: how long a call takes, in virtual seconds in a virtual run.
        usd: what a call costs.
        virtual: False makes runs with this model live: real time, the durable journal, asyncio.

    Raises:
        ConfigError: an empty list of replies, or a negative number.
    """

    shrinkable = False
    naps = True

    def __init__(
        self,
        replies: Sequence[Line] | Callable[[ChatRequest], Line],
        *,
        input_tokens: int = 0,
        output_tokens: int = 0,
        latency_s: float = 0.0,
        usd: float | str | Decimal = 0,
        name: str = "scripted",
        window_tokens: int = 1_000_000,
        virtual: bool = True,
    ) -> None:
        if not callable(replies) and not replies:
            raise ConfigError("ScriptedModel: the list of replies is empty")
        if min(input_tokens, output_tokens, latency_s) < 0:
            raise ConfigError("ScriptedModel: input_tokens, output_tokens and latency_s must be 0 or more")
        self.name = name
        self.virtual = virtual
        self.window_tokens = window_tokens
        self.price: Price | None = Price(call_pico=pico_usd(usd))
        self.usage = Usage(input_tokens, output_tokens)
        self.by_arrival = not callable(replies) and len(replies) > 1
        """Whether an answer depends on how many calls came before it, in whatever run: then no run of it is D1."""
        self.served = 0
        """How many calls were answered so far, by this object."""
        self._replies = replies
        self._latency_s = on_grid_s(latency_s)

    @property
    def settings(self) -> object:
        """Everything but the price that decides its replies, for content addresses."""
        return [self._replies, self.usage, self._latency_s]

    def bound(self, request: ChatRequest) -> Usage:
        """Exactly the usage of every call."""
        return self.usage

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Give the next answer of the script after its latency.

        Raises:
            ModelRefused: max_tokens is below the scripted output (status 400).
        """
        if request.max_tokens < self.usage.output_tokens:
            raise ModelRefused(
                self.name,
                400,
                f"max_tokens {request.max_tokens} is below the scripted {self.usage.output_tokens}",
            )
        turn = self.served
        self.served += 1
        await nap_s(self._latency_s)
        line = self._replies(request) if callable(self._replies) else self._replies[turn % len(self._replies)]
        if isinstance(line, ChatReply):
            return line
        if isinstance(line, str):
            return ChatReply(line, self.usage)
        if isinstance(line, tuple):
            return ChatReply("", self.usage, "tool_calls", line)
        return ChatReply(reply_json(line), self.usage)
