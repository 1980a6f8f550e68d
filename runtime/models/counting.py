"""Owns the bound on the tokens of a prompt: from its bytes, from a tokenizer at hand, or from what the endpoint counted.

A bound may be loose but never below the truth. Bytes bound every byte-level vocabulary. A count of ours is raised by a
twentieth and a margin for what a chat template adds, and is used only where it is below the bytes.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b
from importlib import import_module
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from runtime.boundary import contained_sync
from runtime.errors import AgentFailed, ConfigError
from runtime.models.base import ChatMessage, ChatRequest, prompt_tokens, request_digest
from runtime.models.metering import MOST_TOKEN_BYTES, MOST_TOKENS
from runtime.models.spec import ModelSpec
from runtime.models.wire import message_body, request_shapes

MESSAGE_TOKENS = 16
"""What a chat template puts around one message or one call of a tool, at most."""
TEMPLATE_TOKENS = 256
"""What a chat template, or the endpoint's own system text, adds once, at most."""
TOOLS_TOKENS = 256
"""What it adds once where tools are offered, at most: the instruction how to call them. Anthropic's is 346 tokens, within the
two together."""
REMEMBERED = 4_096

Shape = Literal["messages", "content"]
"""What a `/tokenize` route is sent: the messages, as vLLM takes them, or one text, as llama.cpp does."""


class PromptBounds:
    """The bounds of one model's prompts. It remembers what was counted, so that asking again costs little."""

    def __init__(self, name: str, spec: ModelSpec) -> None:
        self._name = name
        self._spec = spec
        self._counted: dict[str, int] = {}
        self._by_text: dict[bytes, int] = {}

    def of(self, request: ChatRequest) -> int:
        """The most tokens the prompt can be.

        Raises:
            ConfigError: the spec's tokenizer file, or the package to read it, is not there.
        """
        kind = self._spec.tokenizer
        if kind == "bytes4":
            return prompt_tokens(request)
        margin = _margin(request)
        by_bytes = margin + sum(len(text.encode(errors="replace")) for text in _texts(request, self._spec))
        if kind == "endpoint":
            counted = self._counted.get(_key(request))
        else:
            counted = sum(map(self._count, _texts(request, self._spec))) if kind else None
        return by_bytes if counted is None else min(by_bytes, margin + -(-counted * 21 // 20))

    def knows(self, request: ChatRequest) -> bool:
        """Whether the endpoint has counted this prompt."""
        return _key(request) in self._counted

    def learn(self, request: ChatRequest, counted: int) -> None:
        """Remember what the endpoint counted, unless it is less than the prompt can be."""
        n_bytes = sum(len(text.encode(errors="replace")) for text in _texts(request, self._spec))
        if n_bytes // MOST_TOKEN_BYTES <= counted <= MOST_TOKENS:
            _remember(self._counted, _key(request), counted)

    def _count(self, text: str) -> int:
        if not text:
            return 0
        key = blake2b(text.encode(errors="replace"), digest_size=16).digest()
        known = self._by_text.get(key)
        if known is None:
            known = len(_encoder(self._name, self._spec.tokenizer).encode(text, add_special_tokens=False).ids)
            _remember(self._by_text, key, known)
        return known


class _Counted(BaseModel, strict=True):
    count: int | None = None
    tokens: list[Any] | None = None


def tokenize_url(endpoint: str) -> str:
    """Where an endpoint counts tokens: beside `/v1`, not below it."""
    url = urlsplit(endpoint)
    return f"{url.scheme}://{url.netloc}{url.path.removesuffix('/v1')}/tokenize"


def tokenize_body(shape: Shape, request: ChatRequest, spec: ModelSpec) -> dict[str, Any]:
    """What is sent there. Tools and the shape of the reply are added to the last text, as templates may do."""
    shapes = "\n".join(_shape_texts(request, spec))
    if shape == "content":
        return {"content": "\n".join([*(t for m in request.messages for t in _message_texts(m)), shapes])}
    messages = [message_body(message) for message in request.messages]
    if shapes and messages:
        messages[-1]["content"] = f"{messages[-1]['content']}\n{shapes}"
    return {"model": spec.model, "messages": messages}


def count_in(shape: Shape, raw: bytes) -> int | None:
    """Read the answer; None where it is not the answer to this shape."""
    try:
        counted = _Counted.model_validate_json(raw)
    except ValidationError:
        return None
    if shape == "messages":
        return counted.count or None
    return len(counted.tokens) if counted.tokens else None


def _margin(request: ChatRequest) -> int:
    parts = len(request.messages) + sum(len(message.tool_calls) for message in request.messages)
    return MESSAGE_TOKENS * parts + TEMPLATE_TOKENS + (TOOLS_TOKENS if request.tools else 0)


def _texts(request: ChatRequest, spec: ModelSpec) -> Iterator[str]:
    """All that is put into a prompt. Shapes count as indented JSON, the widest form in which a template prints them."""
    for message in request.messages:
        yield from _message_texts(message)
    yield from _shape_texts(request, spec)


def _message_texts(message: ChatMessage) -> Iterator[str]:
    yield message.content
    yield message.tool_call_id
    for call in message.tool_calls:
        yield from call


def _shape_texts(request: ChatRequest, spec: ModelSpec) -> Iterator[str]:
    for shape in request_shapes(request, spec).values():
        yield json.dumps(shape, indent=4)


def _key(request: ChatRequest) -> str:
    return request_digest(replace(request, seed=0, logprobs=0))


def _remember(memory: dict[Any, int], key: Any, count: int) -> None:
    if len(memory) >= REMEMBERED:
        del memory[next(iter(memory))]
    memory[key] = count


@lru_cache(16)
def _encoder(name: str, path: str) -> Any:
    try:
        tokenizers = import_module("tokenizers")
    except ImportError:
        raise ConfigError(
            f"model {name!r}: tokenizer = {path!r} needs the package `tokenizers`: pip install 'ostrom[tokenizer]'"
        ) from None
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"model {name!r}: tokenizer {path!r} cannot be read: {error}") from None
    try:
        encoder = contained_sync(f"tokenizer {path}", tokenizers.Tokenizer.from_str, text)
    except AgentFailed as error:  # the package raises a bare Exception
        raise ConfigError(f"model {name!r}: tokenizer {path!r} is no tokenizer file: {error.text}") from None
    # A file may ask for cutting and filling, which would falsify the count; and what looks like a special token in a text
    # is one token to some endpoints and many to others.
    encoder.no_truncation()
    encoder.no_padding()
    encoder.encode_special_tokens = True
    return encoder
