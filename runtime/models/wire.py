"""Owns the JSON of the chat-completions interface as a client writes and reads it.

Requests are put into the one form all endpoints take. Answers come from programs that others wrote, so they are read
strictly: a figure that cannot be believed is dropped, and a reply that is incomplete is no reply.
"""

import math
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from runtime.errors import BadModelReply
from runtime.messages import reply_schema
from runtime.models.base import ChatMessage, ChatReply, ChatRequest, FinishReason, ToolCall
from runtime.models.spec import ModelSpec
from runtime.usage import Usage

_TEXT_LIMIT = 300
_LOOKS_SECRET = re.compile(r"(?i)\b(?:sk|pk)-[\w*.-]{6,}|\bbearer\s+\S+")

_Tokens = Annotated[int, Field(strict=True, ge=0, le=100_000_000)]


class _Cached(BaseModel):
    cached_tokens: _Tokens | None = None


class _Usage(BaseModel):
    prompt_tokens: _Tokens
    completion_tokens: _Tokens
    total_tokens: Annotated[int, Field(strict=True)] | None = None
    prompt_tokens_details: _Cached | None = None


class _Function(BaseModel):
    name: str
    arguments: str


class _Call(BaseModel):
    id: str
    function: _Function


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None
    tool_calls: Annotated[list[_Call], Field(max_length=128)] | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1, max_length=16)]
    usage: Any = None
    """Read by `read_usage`: a usage nobody can believe does not spoil the reply it came with."""


def request_body(request: ChatRequest, spec: ModelSpec) -> dict[str, Any]:
    """Write a request as the fields of a chat completion."""
    return {
        "model": spec.model,
        "messages": [_message(m) for m in request.messages],
        "seed": request.seed,
        spec.limit_field: request.max_tokens,
    } | request_shapes(request, spec)


def request_shapes(request: ChatRequest, spec: ModelSpec) -> dict[str, Any]:
    """The fields that describe what may come back: the shape of the typed reply, and the tools."""
    shapes: dict[str, Any] = {}
    if request.reply and spec.send_schema:
        wanted = {"name": request.reply, "schema": reply_schema(request.reply)}
        shapes["response_format"] = {"type": "json_schema", "json_schema": wanted}
    if request.tools:
        shapes["tools"] = [{"type": "function", "function": tool._asdict()} for tool in request.tools]
    return shapes


def read_reply(model: str, raw: bytes) -> ChatReply:
    """Read the body of a successful answer.

    Raises:
        BadModelReply: no JSON, not the shape of a chat completion, no reason why the reply ended, or one that means that
            it is incomplete.
    """
    try:
        choice = (completion := _Completion.model_validate_json(raw)).choices[0]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise BadModelReply(model, f"no chat completion: {where}: {first['msg']}") from None
    message = choice.message
    calls = tuple(ToolCall(c.id, c.function.name, c.function.arguments) for c in message.tool_calls or ())
    # A refusal in words is an answer like any other: it was generated, it is billed, and its reader will judge it.
    text = message.content if message.content is not None else message.refusal or ""
    return ChatReply(text, read_usage(completion.usage), _finish(model, choice.finish_reason, calls), calls)


def read_usage(raw: object) -> Usage | None:
    """Read the usage of an answer; None unless every figure is a whole number from 0 to 10^8 and they fit together."""
    try:
        usage = _Usage.model_validate(raw)
    except ValidationError:
        return None
    cached = (usage.prompt_tokens_details.cached_tokens or 0) if usage.prompt_tokens_details else 0
    total = usage.prompt_tokens + usage.completion_tokens
    if cached > usage.prompt_tokens or usage.total_tokens not in (None, total):
        return None
    return Usage(usage.prompt_tokens, usage.completion_tokens, cached)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds an answer's headers ask to wait; None where they do not say or say nonsense.

    A date is taken relative to the answer's own `Date`, so no clock is read and the two clocks need not agree.
    """
    exact = headers.get("retry-after-ms")
    asked = headers.get("retry-after") if exact is None else exact
    if asked is None:
        return None
    try:
        wait_s = float(asked) / (1.0 if exact is None else 1000.0)
    except ValueError:
        try:
            until, now = parsedate_to_datetime(asked), parsedate_to_datetime(headers.get("date", ""))
            wait_s = max(0.0, (until - now).total_seconds())
        except (ValueError, TypeError, OverflowError):
            return None
    return wait_s if math.isfinite(wait_s) and wait_s >= 0 else None


def clean(text: str, secret: str) -> str:
    """Make foreign text fit for a log line: no key, no control characters, no more than 300 characters."""
    if secret:
        text = text.replace(secret, "[key]")
    text = _LOOKS_SECRET.sub("[key]", "".join(c if c.isprintable() else " " for c in text))
    text = " ".join(text.split())
    return text if len(text) <= _TEXT_LIMIT else f"{text[:_TEXT_LIMIT]} ..."


def _finish(model: str, reason: str | None, calls: tuple[ToolCall, ...]) -> FinishReason:
    if reason is None:
        raise BadModelReply(model, "no finish_reason: the reply is incomplete")
    if reason == "length":
        return "length"
    if reason not in ("stop", "tool_calls"):
        raise BadModelReply(model, f"ended by {clean(reason, '')}")
    if reason == "tool_calls" and not calls:
        raise BadModelReply(model, "finish_reason is tool_calls, but no call came with it")
    # Where one tool was demanded by name, endpoints say "stop" although they bring a call.
    return "tool_calls" if calls else "stop"


def _message(message: ChatMessage) -> dict[str, Any]:
    body: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        body["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        body["tool_call_id"] = message.tool_call_id
    return body
