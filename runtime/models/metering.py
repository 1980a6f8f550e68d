"""Owns the reading of what an endpoint says a call consumed, in the shapes of its kinds, and our own lower count beside it.

A usage is believed only where its figures are whole, not negative and fit together. An explicit zero is a figure; what is
missing is unknown and never zero. Where two readings are possible, the total decides, and without one the higher reading.
"""

from collections.abc import Iterator
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from runtime.models.base import ChatRequest
from runtime.usage import Usage

MOST_TOKENS = 100_000_000
MOST_TOKEN_BYTES = 128
"""The longest token in the byte-level vocabularies we know (OpenAI's since GPT-2, and what was derived from them): 128 bytes
of one repeated character. A text of n bytes is therefore at least ⌊n / 128⌋ tokens."""

_Tokens = Annotated[int, Field(strict=True, ge=0, le=MOST_TOKENS)]


class _Details(BaseModel):
    cached_tokens: _Tokens | None = None
    cache_write_tokens: _Tokens | None = None
    cache_creation_tokens: _Tokens | None = None
    reasoning_tokens: _Tokens | None = None


class _Usage(BaseModel):
    """All fields in which any of the known kinds tells something."""

    prompt_tokens: _Tokens | None = None
    completion_tokens: _Tokens | None = None
    total_tokens: _Tokens | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    # Anthropic, and OpenAI's other interface
    input_tokens: _Tokens | None = None
    output_tokens: _Tokens | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None
    cache_read_input_tokens: _Tokens | None = None
    cache_creation_input_tokens: _Tokens | None = None
    # DeepSeek
    prompt_cache_hit_tokens: _Tokens | None = None
    prompt_cache_miss_tokens: _Tokens | None = None
    # SGLang, Perplexity
    reasoning_tokens: _Tokens | None = None

    @property
    def pair(self) -> tuple[int, int] | None:
        """Prompt and reply by the names of one kind; OpenAI's where a gateway gives both."""
        if self.prompt_tokens is not None and self.completion_tokens is not None:
            return self.prompt_tokens, self.completion_tokens
        if self.input_tokens is not None and self.output_tokens is not None:
            return self.input_tokens, self.output_tokens
        return None

    @property
    def cached(self) -> int:
        details = (self.prompt_tokens_details, self.input_tokens_details)
        told = [part.cached_tokens for part in details if part is not None]
        return _most(*told, self.cache_read_input_tokens, self.prompt_cache_hit_tokens)

    @property
    def written(self) -> int:
        parts = [part for part in (self.prompt_tokens_details, self.input_tokens_details) if part is not None]
        told = [tokens for part in parts for tokens in (part.cache_write_tokens, part.cache_creation_tokens)]
        return _most(*told, self.cache_creation_input_tokens)

    @property
    def reasoning(self) -> int:
        details = (self.completion_tokens_details, self.output_tokens_details)
        return _most(*(part.reasoning_tokens for part in details if part is not None), self.reasoning_tokens)

    @property
    def beside_cache(self) -> bool:
        """Whether the prompt may be counted without what the cache gave or took, as Anthropic does."""
        return self.cache_read_input_tokens is not None or self.cache_creation_input_tokens is not None


def read_usage(raw: object, *, thoughts_in_total_only: bool = False) -> Usage | None:
    """Read the usage of an answer; None unless it can be believed.

    Args:
        raw: the `usage` object, as JSON gave it.
        thoughts_in_total_only: whether this endpoint may count thoughts in the total and nowhere else, as Gemini does;
            anywhere else a total that is too high is a contradiction.
    """
    try:
        usage = _Usage.model_validate(raw)
    except ValidationError:
        return None
    if usage.pair is None:
        return None
    (prompt, output), total, reasoning = usage.pair, usage.total_tokens, usage.reasoning
    hit, miss = usage.prompt_cache_hit_tokens, usage.prompt_cache_miss_tokens
    if hit is not None and miss is not None and hit + miss != prompt:
        return None
    cache = usage.cached + usage.written
    for read, wrote in _readings(usage, prompt, output, cache):
        # Anthropic's way of counting a prompt has totals that leave the cache out as well.
        outside = usage.beside_cache and total == prompt + output and (read, wrote) == (prompt + cache, output)
        if total in (None, read + wrote) or outside:
            return _believable(Usage(read, wrote, usage.cached, usage.written, reasoning))
    if thoughts_in_total_only and total is not None and total > prompt + output and cache <= prompt:
        thoughts = max(reasoning, total - prompt - output)
        return _believable(Usage(prompt, total - prompt, usage.cached, usage.written, thoughts))
    return None


def _readings(usage: _Usage, prompt: int, output: int, cache: int) -> Iterator[tuple[int, int]]:
    """The ways to read prompt and reply, in the order in which they are tried; those that contradict themselves left out."""
    prompts = [prompt] if cache <= prompt else []
    if usage.beside_cache:
        # Under Anthropic's names the cache comes on top of the prompt, under OpenAI's it is a part of it.
        prompts.insert(0 if usage.prompt_tokens is None or usage.total_tokens is None else len(prompts), prompt + cache)
    outputs = [output] if usage.reasoning <= output else []
    # xAI leaves thoughts out of the completion and adds them to the total.
    outputs.insert(0 if usage.total_tokens is None else len(outputs), output + usage.reasoning)
    yield from ((read, wrote) for wrote in outputs for read in prompts)


def prompt_bytes(request: ChatRequest) -> int:
    """UTF-8 bytes of all texts in a request's messages."""
    return sum(
        len(text.encode(errors="replace"))
        for message in request.messages
        for text in (message.content, *(call.arguments for call in message.tool_calls))
    )


def not_below(usage: Usage, sent_bytes: int, received_bytes: int) -> Usage:
    """Raise a usage to what was provably consumed; the same object where it states as much itself.

    Whole tokens only: a scripted endpoint that bills nothing for a few words is believed.
    """
    least_input, least_output = sent_bytes // MOST_TOKEN_BYTES, received_bytes // MOST_TOKEN_BYTES
    if usage.input_tokens >= least_input and usage.output_tokens >= least_output:
        return usage
    return usage._replace(
        input_tokens=max(usage.input_tokens, least_input), output_tokens=max(usage.output_tokens, least_output)
    )


def _most(*told: int | None) -> int:
    return max((tokens for tokens in told if tokens is not None), default=0)


def _believable(usage: Usage) -> Usage | None:
    return usage if max(usage.input_tokens, usage.output_tokens) <= MOST_TOKENS else None
