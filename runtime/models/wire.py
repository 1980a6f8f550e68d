"""Owns the JSON of the chat-completions interface as a client writes it, and the headers and texts it reads beside replies.

Requests are put into the one form all endpoints take: never a role of `developer`, never `n`, and one limit on the reply.
"""

import math
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from runtime.messages import reply_schema
from runtime.models.base import ChatMessage, ChatRequest
from runtime.models.spec import ModelSpec

TEXT_LIMIT = 300
_LOOKS_SECRET = re.compile(r"(?i)\b(?:sk|pk)-[\w*.-]{6,}|\bbearer\s+\S+")


def request_body(request: ChatRequest, spec: ModelSpec) -> dict[str, Any]:
    """Write a request as the fields of a chat completion."""
    body: dict[str, Any] = {"model": spec.model, "messages": [message_body(m) for m in request.messages]}
    if spec.seed_bits:
        body["seed"] = request.seed & ((1 << spec.seed_bits) - 1)
    if spec.sent_limit is not None:
        body[spec.sent_limit] = request.max_tokens
    if request.logprobs:
        body |= {"logprobs": True, "top_logprobs": request.logprobs}
    if spec.stream:
        body["stream"] = True
        if spec.stream_usage:
            body["stream_options"] = {"include_usage": True}
    return body | request_shapes(request, spec)


def request_shapes(request: ChatRequest, spec: ModelSpec) -> dict[str, Any]:
    """The fields that describe what may come back: the shape of the typed reply, and the tools."""
    shapes: dict[str, Any] = {}
    if request.reply and spec.send_schema:
        wanted = {"name": request.reply, "schema": reply_schema(request.reply)}
        shapes["response_format"] = {"type": "json_schema", "json_schema": wanted}
    if request.tools:
        shapes["tools"] = [{"type": "function", "function": tool._asdict()} for tool in request.tools]
    return shapes


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


def clean(text: str, secret: str = "", limit: int = TEXT_LIMIT) -> str:
    """Make foreign text fit for a log line: no key, no control characters, no more than so many characters."""
    if secret:
        text = text.replace(secret, "[key]")
    text = _LOOKS_SECRET.sub("[key]", "".join(c if c.isprintable() else " " for c in text))
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[:limit]} ..."


def message_body(message: ChatMessage) -> dict[str, Any]:
    """Write one message of a conversation."""
    body: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        body["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        body["tool_call_id"] = message.tool_call_id
    return body
