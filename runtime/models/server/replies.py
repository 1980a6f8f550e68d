"""Owns the JSON that the server writes: completions, the chunks of a stream, usage, models and errors, in OpenAI's shapes.

No clock is read and no id is drawn: equal servers asked the same give the same bytes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from hashlib import blake2b
from typing import Any

import orjson

from runtime.models.base import (
    ChatModel,
    ChatReply,
    ChatRequest,
    FinishReason,
    TokenLogprob,
    ToolCall,
    estimate_tokens,
    prompt_tokens,
)
from runtime.usage import Usage

Document = dict[str, Any]

DONE = b"data: [DONE]\n\n"
PIECE_CHARS = 16
"""Length of the pieces a text is streamed in; long texts go in larger ones, so that there are never more than 1,000."""
TOKEN_CHARS = 4
"""Length of what the made-up probabilities take for a token."""
_ONES = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TEENS = ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_NUMBERS = ", ".join([*_ONES, *_TEENS, *(n for ten in _TENS for n in (ten, *(f"{ten}-{one}" for one in _ONES)))])


def dump(document: object) -> bytes:
    """JSON as it goes over the wire."""
    return orjson.dumps(document)


def frame(document: object) -> bytes:
    """One event of a stream."""
    return b"data: " + dump(document) + b"\n\n"


def completion(number: int, name: str, reply: ChatReply) -> Document:
    """The answer to a request without `stream`."""
    message: Document = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.tool_calls:
        message["content"] = reply.text or None
        message["tool_calls"] = [_call(call) for call in reply.tool_calls]
    choice = {"index": 0, "message": message, "logprobs": _logprobs(reply.logprobs), "finish_reason": reply.finish}
    return _head(number, name, "chat.completion") | {
        "choices": [choice],
        "usage": None if reply.usage is None else usage_document(reply.usage),
    }


def chunks(number: int, name: str, reply: ChatReply, include_usage: bool) -> list[Document]:
    """The answer to a request with `stream`: role, text, tool calls, the reason it ended, and the usage where asked for."""
    head = _head(number, name, "chat.completion.chunk") | ({"usage": None} if include_usage else {})

    def chunk(delta: Document, finish: str | None = None, probable: Sequence[TokenLogprob] | None = None) -> Document:
        choice = {"index": 0, "delta": delta, "logprobs": _logprobs(probable), "finish_reason": finish}
        return head | {"choices": [choice]}

    found = [chunk({"role": "assistant", "content": None if reply.tool_calls and not reply.text else ""})]
    if reply.logprobs:
        found += [chunk({"content": one.token}, None, (one,)) for one in reply.logprobs]
    else:
        found += [chunk({"content": piece}) for piece in pieces(reply.text)]
    for index, call in enumerate(reply.tool_calls):
        opening = _call(call) | {"index": index, "function": {"name": call.name, "arguments": ""}}
        found.append(chunk({"tool_calls": [opening]}))
        for piece in pieces(call.arguments):
            found.append(chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}))
    found.append(chunk({}, reply.finish))
    if include_usage and reply.usage is not None:
        found.append(head | {"choices": [], "usage": usage_document(reply.usage)})
    return found


def pieces(text: str) -> Iterator[str]:
    """Cut a text into the pieces it is streamed in."""
    size = max(PIECE_CHARS, math.ceil(len(text) / 1000))
    return (text[i : i + size] for i in range(0, len(text), size))


def usage_document(usage: Usage) -> Document:
    """A usage as OpenAI's API tells it; tokens written into a cache stand in it where there are any."""
    written = {"cache_write_tokens": usage.cache_write_tokens} if usage.cache_write_tokens else {}
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens} | written,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def counted(request: ChatRequest) -> ChatReply:
    """The answer to the question that tells which limit an endpoint obeys: numbers in words, up to the limit."""
    written = min(estimate_tokens(_NUMBERS), request.max_tokens)
    finish: FinishReason = "length" if written == request.max_tokens else "stop"
    return ChatReply(_NUMBERS[: 4 * written], Usage(prompt_tokens(request), written), finish)


def made_up_logprobs(text: str, seed: int, tops: int) -> tuple[TokenLogprob, ...]:
    """Probabilities that stand for nothing, to test who reads them: they come from a hash of the seed and the token."""
    return tuple(_made_up(text[i : i + TOKEN_CHARS], seed, tops) for i in range(0, len(text), TOKEN_CHARS))


def card(name: str, model: ChatModel, **more: object) -> Document:
    """What the list of models says about one."""
    facts = {
        "window_tokens": model.window_tokens,
        "price": None if model.price is None else asdict(model.price),
        "virtual": model.virtual,
        "shrinkable": model.shrinkable,
    }
    return {"id": name, "object": "model", "created": 0, "owned_by": "ostrom", "ostrom": facts | more}


def error_document(
    status: int, text: str, kind: str = "", param: str | None = None, code: str | None = None
) -> Document:
    """An error in OpenAI's shape."""
    kind = kind or ("invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": text, "type": kind, "param": param, "code": code}}


def _head(number: int, name: str, kind: str) -> Document:
    return {"id": f"chatcmpl-{number}", "object": kind, "created": 0, "model": name}


def _call(call: ToolCall) -> Document:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _logprobs(found: Sequence[TokenLogprob] | None) -> Document | None:
    if found is None:
        return None
    tokens = [
        _probable(token, logprob) | {"top_logprobs": [_probable(*other) for other in top]}
        for token, logprob, top in found
    ]
    return {"content": tokens, "refusal": None}


def _probable(token: str, logprob: float) -> Document:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


def _made_up(token: str, seed: int, tops: int) -> TokenLogprob:
    digest = blake2b(f"{seed} {token}".encode(), digest_size=4).digest()
    share = 0.5 + int.from_bytes(digest) / 2**33
    # Each further candidate gets half of what is left, so that they fall and never pass 1 together.
    others = [(f"~{i}", math.log((1 - share) / 2**i)) for i in range(1, tops)]
    return TokenLogprob(token, math.log(share), ((token, math.log(share)), *others)[:tops])
