"""Owns the reading of replies that come as a stream: what the chunks add up to, and when a stream is cut off.

It sees bytes only, so that one reader serves the wire and the tests, and a reply does not depend on how the bytes were
split on their way. A stream that ends without a reason or without its usage is incomplete, and never a reply.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from runtime.errors import BadModelReply, ModelError, ModelUnavailable
from runtime.models.base import ChatReply, ToolCall
from runtime.models.events import EventLines
from runtime.models.failures import error_in_reply, tidy
from runtime.models.metering import MOST_TOKEN_BYTES
from runtime.models.replies import (
    MOST_ARGUMENT_CHARS,
    MOST_TOOL_CALLS,
    Content,
    Expected,
    Heard,
    bytes_of,
    fault_of,
    settle,
)
from runtime.usage import Usage

CHARS_PER_TOKEN = 16
"""No language runs at so many characters a token over a whole reply; what is longer has passed its limit."""
PIECES_PER_TOKEN = 4
"""Endpoints send a token or more in a piece. Gateways that smooth a stream cut it finer, down to letters."""
SLACK_CHARS, SLACK_PIECES, SLACK_TOKENS = 1_024, 64, 64


_DONE = b"[DONE]"


class _Function(BaseModel):
    name: Annotated[str, Field(max_length=256)] | None = None
    arguments: str | None = None


class _Call(BaseModel):
    index: int | None = None
    id: Annotated[str, Field(max_length=65_536)] | None = None
    function: _Function = _Function()


class _Delta(BaseModel):
    content: Content = None
    refusal: str | None = None
    tool_calls: Annotated[list[_Call], Field(max_length=MOST_TOOL_CALLS)] | None = None
    reasoning_content: Any = None
    reasoning: Any = None


class _Choice(BaseModel):
    index: int = 0
    delta: _Delta | None = None
    finish_reason: str | None = None
    logprobs: Any = None


class _Chunk(BaseModel):
    choices: Annotated[list[_Choice], Field(max_length=1)] | None = None
    usage: Any = None
    error: Any = None
    # vLLM once sent its errors bare: {"object": "error", "message": …, "code": …}
    object: Any = None
    message: Any = None
    code: Any = None


@dataclass(slots=True)
class _Calling:
    """A tool call as far as it has come."""

    id: str
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    chars: int = 0


class StreamedReply:
    """Puts a reply together from the bytes of a stream."""

    def __init__(self, expected: Expected) -> None:
        self._expected = expected
        self._lines = EventLines()
        self._text: list[str] = []
        self._refusal: list[str] = []
        self._calls: list[_Calling] = []
        self._by_index: dict[int, _Calling] = {}
        self._logprobs: list[Any] = []
        self._finish: str | None = None
        self._usage: Any = None
        self._final = False
        """Whether the usage is that of the whole reply."""
        self._n_bytes = self._n_chars = self._n_pieces = self._generated_bytes = self._thoughts_bytes = 0
        self.done = False
        """Whether the endpoint has said that this was all."""

    @property
    def complete(self) -> bool:
        """Whether nothing that may still come is needed."""
        return self.done or self._final

    def feed(self, data: bytes) -> None:
        """Take some bytes.

        Raises:
            BadModelReply: what is no stream of chunks, or goes on past what was asked for.
            ModelUnavailable: an error object in the stream.
        """
        if self.done:
            return
        self._n_bytes += len(data)
        if self._n_bytes > self._expected.most_bytes:
            raise self._cut(f"longer than {self._expected.most_bytes:,} bytes")
        failure: ModelError | None = None
        try:
            for event in self._lines.feed(data):
                if (failure := self._event(event)) is not None:
                    break
        except ValueError as error:
            failure = self._bad(str(error))
        if failure is not None:
            raise failure

    def result(self) -> ChatReply:
        """Read the whole, once the stream has ended.

        Raises:
            ModelUnavailable: it ended before the reply did.
            BadModelReply: it brought no usage, or a reply that is incomplete.
        """
        self._last_event()
        if self._finish is None:
            raise ModelUnavailable(self._expected.model, "the stream ended without a finish_reason")
        if not (self.done or self._final):
            raise ModelUnavailable(self._expected.model, "the stream ended before its usage came")
        if self._usage is None:
            raise self._bad(
                "the stream brought no usage; if this endpoint never sends one in streams, say stream = false"
            )
        calls = tuple(ToolCall(c.id or f"call_{i}", c.name, "".join(c.arguments)) for i, c in enumerate(self._calls))
        text = "".join(self._text) or "".join(self._refusal)
        heard = Heard(text, calls, self._finish, self._usage, self._thoughts_bytes, self._logprobs or None)
        return settle(heard, self._expected)

    def _last_event(self) -> None:
        """Take an event that lacks its end only; half of one says no more than none."""
        failure: ModelError | None = None
        try:
            event = self._lines.close()
        except ValueError as error:
            event, failure = None, self._bad(str(error))
        if event is not None and (event.strip() == _DONE or _is_chunk(event)):
            failure = self._event(event)
        if failure is not None and self._finish is None:
            raise failure

    def _event(self, event: bytes) -> ModelError | None:
        if self.done:
            return None
        if event.strip() == _DONE:
            self.done = True
            return None
        try:
            chunk = _Chunk.model_validate_json(event)
        except ValidationError as error:
            return self._bad(f"no chunk of a chat completion: {fault_of(error)}")
        if chunk.choices is None and chunk.usage is None and not chunk.error and chunk.object != "error":
            return self._bad("no chunk of a chat completion: it has neither choices nor usage")
        if chunk.error or chunk.object == "error":
            bare = {"message": chunk.message, "code": chunk.code}
            return error_in_reply(self._expected.model, chunk.error or bare)
        for choice in chunk.choices or ():
            if choice.index != 0:
                return self._bad("more than one choice, where one was asked for")
            if choice.delta is not None and (failure := self._delta(choice.delta)) is not None:
                return failure
            if isinstance(choice.logprobs, dict) and isinstance(choice.logprobs.get("content"), list):
                self._logprobs += choice.logprobs["content"]
            self._finish = self._finish or choice.finish_reason or None
        if chunk.usage is not None:
            # Some count up from chunk to chunk: the figure is final only from the end of the reply on.
            self._usage, self._final = chunk.usage, self._finish is not None
        return self._passed()

    def _delta(self, delta: _Delta) -> ModelError | None:
        pieces = [delta.content, delta.refusal]
        self._text += [delta.content] if delta.content else []
        self._refusal += [delta.refusal] if delta.refusal else []
        thought = delta.reasoning_content or delta.reasoning
        if isinstance(thought, str):
            pieces.append(thought)
            self._thoughts_bytes += bytes_of(thought)
        for call in delta.tool_calls or ():
            known = self._calling(call)
            if known is None:
                return self._bad(f"more than {MOST_TOOL_CALLS} tool calls")
            known.name = known.name or call.function.name or ""
            if call.function.arguments:
                known.arguments.append(call.function.arguments)
                known.chars += len(call.function.arguments)
            if known.chars > MOST_ARGUMENT_CHARS:
                return self._bad(f"a tool call with more than {MOST_ARGUMENT_CHARS:,} characters")
            pieces.append(call.function.arguments)
        said = [piece for piece in pieces if piece]
        if said and self._finish is not None:
            return self._bad("it goes on after its end")
        self._n_pieces += bool(said)
        self._n_chars += sum(map(len, said))
        self._generated_bytes += sum(map(bytes_of, said))
        return None

    def _calling(self, call: _Call) -> _Calling | None:
        """The call that a piece belongs to; None where there are too many."""
        # Gemini and Ollama begin each call with an id of its own, but leave the index out or let it stand at 0.
        index = (
            call.index if call.index is not None else len(self._calls) if call.id else max(self._by_index, default=0)
        )
        known = self._by_index.get(index)
        if known is None or (call.id and known.id and call.id != known.id):
            if len(self._calls) == MOST_TOOL_CALLS:
                return None
            known = self._by_index[index] = _Calling(call.id or "")
            self._calls.append(known)
        return known

    def _passed(self) -> ModelError | None:
        """The error of a reply that has gone on past its limit; None while it keeps to it."""
        most = self._expected.max_tokens
        if self._expected.scripted or self._finish is not None:
            return None
        if self._n_chars > CHARS_PER_TOKEN * most + SLACK_CHARS:
            return self._cut(f"{self._n_chars:,} characters and no end, {most:,} tokens allowed")
        if self._n_pieces > PIECES_PER_TOKEN * most + SLACK_PIECES:
            return self._cut(f"{self._n_pieces:,} pieces and no end, {most:,} tokens allowed")
        if self._usage is not None:
            usage, _ = self._expected.usage(self._usage, self._generated_bytes)
            if usage is not None and usage.output_tokens > most + SLACK_TOKENS:
                return self._cut(f"{usage.output_tokens:,} tokens and no end, {most:,} allowed")
        return None

    def _cut(self, why: str) -> BadModelReply:
        """End it here, and book what has come where that is more than was held, by a count rather too low than too high."""
        said, _ = self._expected.usage(self._usage, self._generated_bytes)
        counted = max(
            self._n_chars // CHARS_PER_TOKEN,
            self._n_pieces // PIECES_PER_TOKEN,
            self._generated_bytes // MOST_TOKEN_BYTES,
            0 if said is None else said.output_tokens,
        )
        prompt = max(self._expected.bound_tokens, 0 if said is None else said.input_tokens)
        usage = Usage(prompt, counted) if counted > self._expected.max_tokens else None
        return BadModelReply(self._expected.model, f"cut off: {why}", usage)

    def _bad(self, reason: str) -> BadModelReply:
        return BadModelReply(self._expected.model, tidy(reason))


def _is_chunk(event: bytes) -> bool:
    try:
        _Chunk.model_validate_json(event)
    except ValidationError:
        return False
    return True
