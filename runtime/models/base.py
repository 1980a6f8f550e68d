"""Owns the port every model stands behind: ChatRequest in, ChatReply out, and a bound on the usage before the call."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from runtime.ids import address
from runtime.usage import Price, Usage

FinishReason = Literal["stop", "length", "tool_calls"]


class ChatMessage(NamedTuple):
    """One message of a conversation, in the words of the chat-completions interface."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: tuple["ToolCall", ...] = ()
    """Calls an assistant message asked for."""
    tool_call_id: str = ""
    """In a tool message: the call it answers."""


class ToolCall(NamedTuple):
    """A model's wish to use a tool."""

    id: str
    name: str
    arguments: str
    """JSON as the model wrote it; not yet validated."""


class ToolSpec(NamedTuple):
    """What a model is told about a tool."""

    name: str
    description: str
    parameters: dict[str, Any]
    """JSON schema of the arguments."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """Everything a model gets to know. Two equal requests are the same work."""

    messages: tuple[ChatMessage, ...]
    max_tokens: int
    """What the reply may think and write, in tokens; a limit no endpoint may pass."""
    seed: int = 0
    reply: str = ""
    """Name of the typed reply asked for (a key of `runtime.messages.KINDS`); empty for free text."""
    tools: tuple[ToolSpec, ...] = ()
    logprobs: int = 0
    """How many alternatives to each token of the reply to ask for, with their log-probabilities; 0 asks for none at all."""
    warm_tokens: int = field(default=0, compare=False)
    """Prompt tokens that a cache holds from an earlier call of the seat; told to models that simulate a cache, and no part of
    the work."""


class TokenLogprob(NamedTuple):
    """One token of a reply, how likely it was, and what else was likely in its place."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class ChatReply:
    """What came back."""

    text: str
    usage: Usage | None
    """None when the endpoint did not say, or not believably; then the reserved maximum is charged."""
    finish: FinishReason = "stop"
    tool_calls: tuple[ToolCall, ...] = field(default=())
    floored: bool = False
    """Whether the endpoint stated less than was provably consumed, so that `usage` is our own lower count instead."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    """None where they were not asked for, or not offered."""


def reply_of(
    text: str,
    usage: Sequence[int] | None,
    finish: FinishReason,
    tool_calls: Sequence[Sequence[str]],
    floored: bool = False,
    logprobs: Sequence[Sequence[Any]] | None = None,
) -> ChatReply:
    """Read a reply back whose parts were written as JSON."""
    return ChatReply(
        text,
        None if usage is None else Usage(*usage),
        finish,
        tuple(ToolCall(*call) for call in tool_calls),
        floored,
        None if logprobs is None else tuple(TokenLogprob(t, p, tuple(map(tuple, top))) for t, p, top in logprobs),
    )


class ChatModel(Protocol):
    """A model: in-process, recorded, simulated or an endpoint."""

    @property
    def name(self) -> str:
        """The catalogue name; tables group spend by it."""
        ...

    @property
    def virtual(self) -> bool:
        """Whether nobody bills for it and its time may be jumped over. A run is virtual iff all its models and tools are."""
        ...

    @property
    def shrinkable(self) -> bool:
        """Whether a smaller max_tokens yields a shorter reply instead of an error."""
        ...

    @property
    def price(self) -> Price | None:
        """None when unknown: refused under a dollar cap."""
        ...

    @property
    def window_tokens(self) -> int:
        """Prompt and reply together never exceed this."""
        ...

    def bound(self, request: ChatRequest) -> Usage:
        """The most this request can consume: prompt tokens, and reply tokens up to `request.max_tokens`."""
        ...

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer.

        Raises:
            ModelRefused: nothing was done and nothing is billed.
            ModelError: anything else; the reserved maximum is charged.
        """
        ...


def estimate_tokens(text: str) -> int:
    """Tokens of a text by the rule ⌈UTF-8 bytes / 4⌉, which simulated, scripted and recorded models count by."""
    return -(-len(text.encode()) // 4)


def prompt_tokens(request: ChatRequest) -> int:
    """Prompt tokens of a request by the same rule, four more for each message, and the tools' descriptions."""
    size = 0
    for message in request.messages:
        size += len(message.content.encode())
        for call in message.tool_calls:
            size += len(call.arguments)
    for tool in request.tools:
        size += len(tool.name) + len(tool.description) + len(str(tool.parameters))
    return -(-size // 4) + 4 * len(request.messages)


def request_digest(request: ChatRequest) -> str:
    """Content address of a request, seed included: equal exactly where the work is. Its limit is left out, for that rests on
    how well the endpoint could count the prompt just then.
    """
    said = [[m.role, m.content, [list(c) for c in m.tool_calls], m.tool_call_id] for m in request.messages]
    parts = [said, request.seed, request.reply, [list(t) for t in request.tools]]
    return address([*parts, request.logprobs] if request.logprobs else parts)
