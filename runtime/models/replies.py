"""Owns the reading of chat completions: what of an answer can be used, and what it consumed even where it cannot.

Answers come from programs that others wrote, so they are read strictly: a figure that cannot be believed is dropped, a
reply that is incomplete is no reply, and neither may be longer than what was asked for can be.
"""

from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from runtime.errors import BadModelReply, ModelError
from runtime.models.base import ChatReply, ChatRequest, FinishReason, TokenLogprob, ToolCall
from runtime.models.failures import error_in_reply, tidy
from runtime.models.metering import not_below, prompt_bytes, read_usage
from runtime.models.spec import ModelSpec
from runtime.usage import Usage

MOST_TOOL_CALLS = 128
MOST_ARGUMENT_CHARS = 262_144
_MIB = 2**20
_MOST_BYTES = 64 * _MIB

_Id = Annotated[str, Field(max_length=65_536)]  # some gateways hide the model's state in it
_Name = Annotated[str, Field(max_length=256)]
_Arguments = Annotated[str, Field(max_length=MOST_ARGUMENT_CHARS)]


def _joined(content: Any) -> Any:
    """Mistral sends parts where others send a text; those that are no text are thoughts."""
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        return content
    texts = [part.get("text") for part in content if part.get("type") == "text"]
    return "".join(texts) if all(isinstance(text, str) for text in texts) else content


Content = Annotated[str | None, BeforeValidator(_joined)]
"""The content of a message or of a piece of one."""


class _Function(BaseModel):
    name: _Name
    arguments: _Arguments


class _Call(BaseModel):
    id: _Id | None = None
    function: _Function


class _Message(BaseModel):
    content: Content = None
    refusal: str | None = None
    tool_calls: Annotated[list[_Call], Field(max_length=MOST_TOOL_CALLS)] | None = None
    reasoning_content: Any = None
    reasoning: Any = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    logprobs: Any = None


class _Envelope(BaseModel):
    """What is read also of a reply that cannot be used."""

    usage: Any = None
    error: Any = None


class _Completion(_Envelope):
    # More than one was never asked for.
    choices: Annotated[list[_Choice], Field(min_length=1, max_length=1)]


class _Top(BaseModel):
    token: str
    logprob: Annotated[float, Field(allow_inf_nan=False)]


class _Token(_Top):
    top_logprobs: Annotated[list[_Top], Field(max_length=64)] = []


class _Logprobs(BaseModel):
    content: list[_Token]


class Expected(NamedTuple):
    """What a reply is held against."""

    model: str
    """The catalogue's name, for errors."""
    max_tokens: int
    sent_bytes: int
    bound_tokens: int
    """The most that the prompt can be."""
    scripted: bool
    """Whether the usage is declared and need not fit the text."""
    thoughts_in_total_only: bool
    logprobs: int
    most_bytes: int
    """A longer answer cannot be what was asked for."""

    def usage(self, raw: object, received_bytes: int) -> tuple[Usage | None, bool]:
        """The usage to be settled, and whether it had to be raised to our own lower count."""
        stated = read_usage(raw, thoughts_in_total_only=self.thoughts_in_total_only)
        if stated is None or self.scripted:
            return stated, False
        usage = not_below(stated, self.sent_bytes, received_bytes)
        return usage, usage is not stated

    def too_long(self) -> BadModelReply:
        """The error of an answer that does not end."""
        return BadModelReply(self.model, f"longer than {self.most_bytes:,} bytes")


class Heard(NamedTuple):
    """All that an answer said, however it came."""

    text: str
    calls: tuple[ToolCall, ...]
    finish: str | None
    usage: object
    thoughts_bytes: int
    """UTF-8 bytes of thoughts that were shown beside the reply; they were generated, too."""
    logprobs: list[Any] | None


def expected(model: str, spec: ModelSpec, request: ChatRequest, bound_tokens: int) -> Expected:
    """What the reply to a request is held against."""
    # A chunk of a stream wraps each token into some hundred bytes; alternatives come as objects of their own.
    per_token = (4_096 if spec.stream else 256) * (1 + request.logprobs)
    return Expected(
        model,
        request.max_tokens,
        prompt_bytes(request),
        bound_tokens,
        spec.fixed_usage is not None,
        spec.thoughts_in_total_only,
        request.logprobs,
        min(_MIB + per_token * request.max_tokens, _MOST_BYTES),
    )


class PlainReply:
    """Reads an answer that comes as one JSON document."""

    def __init__(self, expected: Expected) -> None:
        self._expected = expected
        self._raw = bytearray()
        self.complete = False
        """Whether nothing that may still come is needed: here never before the end."""

    def feed(self, data: bytes) -> None:
        """Take some bytes.

        Raises:
            BadModelReply: more of them than the reply can need.
        """
        self._raw += data
        if len(self._raw) > self._expected.most_bytes:
            raise self._expected.too_long()

    def result(self) -> ChatReply:
        """Read the whole, once all has come.

        Raises:
            BadModelReply: no JSON, not the shape of a chat completion, no reason why the reply ended, or one that means
                that it is incomplete.
            ModelUnavailable: an error object in place of a reply.
        """
        raw = bytes(self._raw)
        try:
            completion = _Completion.model_validate_json(raw)
        except ValidationError as error:
            unusable = self._unusable(raw, fault_of(error))
        else:
            if not completion.error:
                return settle(_heard(completion), self._expected)
            unusable = error_in_reply(self._expected.model, completion.error)
        raise unusable

    def _unusable(self, raw: bytes, fault: str) -> ModelError:
        try:
            envelope = _Envelope.model_validate_json(raw)
        except ValidationError:
            return BadModelReply(self._expected.model, f"no chat completion: {fault}")
        if envelope.error:
            return error_in_reply(self._expected.model, envelope.error)
        usage, _ = self._expected.usage(envelope.usage, 0)
        return BadModelReply(self._expected.model, f"no chat completion: {fault}", usage)


def _heard(completion: _Completion) -> Heard:
    choice = completion.choices[0]
    message = choice.message
    calls = tuple(
        ToolCall(c.id or f"call_{i}", c.function.name, c.function.arguments)
        for i, c in enumerate(message.tool_calls or ())
    )
    shown = choice.logprobs.get("content") if isinstance(choice.logprobs, dict) else None
    return Heard(
        # A refusal in words is an answer like any other: it was generated, it is billed, and its reader will judge it.
        message.content if message.content is not None else message.refusal or "",
        calls,
        choice.finish_reason,
        completion.usage,
        bytes_of(message.reasoning_content or message.reasoning),
        shown if isinstance(shown, list) else None,
    )


def settle(heard: Heard, expected: Expected) -> ChatReply:
    """Make a reply of what was heard.

    Raises:
        BadModelReply: it gives no reason why it ended, or one that means that it is incomplete.
    """
    received = bytes_of(heard.text) + heard.thoughts_bytes + sum(bytes_of(c.name + c.arguments) for c in heard.calls)
    usage, floored = expected.usage(heard.usage, received)
    finish = _finish(heard.finish, heard.calls)
    if finish is None:
        reason = _why(heard.finish) if heard.finish else "no finish_reason: the reply is incomplete"
        raise BadModelReply(expected.model, reason, usage)
    logprobs = _logprobs(heard.logprobs) if expected.logprobs else None
    return ChatReply(heard.text, usage, finish, heard.calls, floored, logprobs)


def bytes_of(text: object) -> int:
    """UTF-8 bytes of a text; 0 for what is none."""
    if not isinstance(text, str):
        return 0
    return len(text) if text.isascii() else len(text.encode(errors="replace"))


def fault_of(error: ValidationError) -> str:
    """Where a document first has another shape than it should, without showing its values."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the body'}: {first['msg']}"


def _finish(reason: str | None, calls: tuple[ToolCall, ...]) -> FinishReason | None:
    if reason == "length":
        return "length"
    if reason not in ("stop", "tool_calls") or (reason == "tool_calls" and not calls):
        return None
    # Where one tool was demanded by name, endpoints say "stop" although they bring a call.
    return "tool_calls" if calls else "stop"


def _why(finish: str) -> str:
    if finish == "tool_calls":
        return "finish_reason is tool_calls, but no call came with it"
    return f"ended by {tidy(finish)}"


def _logprobs(entries: list[Any] | None) -> tuple[TokenLogprob, ...] | None:
    """None also where they cannot be read: they were an extra, and the reply stands without them."""
    if entries is None:
        return None
    try:
        tokens = _Logprobs.model_validate({"content": entries}).content
    except ValidationError:
        return None
    return tuple(
        TokenLogprob(t.token, t.logprob, tuple((top.token, top.logprob) for top in t.top_logprobs)) for t in tokens
    )
