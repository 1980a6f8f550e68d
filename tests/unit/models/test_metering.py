"""What a usage is read as: by the habits of each kind of endpoint, and as unknown rather than as something too low."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.models.base import ChatMessage, ChatRequest, ToolCall
from runtime.models.metering import MOST_TOKEN_BYTES, MOST_TOKENS, not_below, prompt_bytes, read_usage
from runtime.usage import Usage


def openai(prompt: int, output: int, total: int | None = None, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": total} | more


def anthropic(prompt: int, output: int, read: int | None, written: int | None, **more: Any) -> dict[str, Any]:
    cache = {"cache_read_input_tokens": read, "cache_creation_input_tokens": written}
    return {"input_tokens": prompt, "output_tokens": output} | cache | more


def thoughts(n: object) -> dict[str, Any]:
    return {"completion_tokens_details": {"reasoning_tokens": n}}


def cached(n: object) -> dict[str, Any]:
    return {"prompt_tokens_details": {"cached_tokens": n}}


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        (openai(5, 1), Usage(5, 1)),
        (openai(5, 1, 6), Usage(5, 1)),
        (openai(0, 0, 0), Usage(0, 0)),
        (openai(5, 0, 5), Usage(5, 0)),
        (openai(5, 9, 14, **thoughts(9), **cached(5)), Usage(5, 9, 5, 0, 9)),
        (openai(5, 9, 14, **thoughts(None), **cached(0)), Usage(5, 9)),
        (openai(5, 9, 14, cost=0.25, prompt_tokens_details=None), Usage(5, 9)),
        (openai(5, 9, 14, input_tokens=0, output_tokens=0), Usage(5, 9)),
        (openai(5, 9, 14, prompt_tokens_details={"cached_tokens": 1, "cache_write_tokens": 2}), Usage(5, 9, 1, 2)),
        # no total: the higher reading
        (openai(5, 9, None, **thoughts(4)), Usage(5, 13, 0, 0, 4)),
        # xAI: beside the completion, inside the total
        (openai(5, 1, 10, **thoughts(4)), Usage(5, 5, 0, 0, 4)),
        (openai(5, 9, 18, **thoughts(4)), Usage(5, 13, 0, 0, 4)),
        (openai(5, 0, 9, **thoughts(4)), Usage(5, 4, 0, 0, 4)),
        # Anthropic: the cache beside the prompt
        (anthropic(5, 9, None, None), Usage(5, 9)),
        (anthropic(5, 9, 0, 0), Usage(5, 9)),
        (anthropic(5, 9, 100, 20), Usage(125, 9, 100, 20)),
        (anthropic(5, 9, 100, None), Usage(105, 9, 100)),
        (anthropic(5, 9, 100, 20, total_tokens=134), Usage(125, 9, 100, 20)),
        (anthropic(5, 9, 100, 20, total_tokens=14), Usage(125, 9, 100, 20)),
        # a gateway: OpenAI's names, and Anthropic's for the cache; the total tells where it is counted
        (openai(125, 9, 134, cache_read_input_tokens=100, cache_creation_input_tokens=20), Usage(125, 9, 100, 20)),
        (openai(125, 9, 254, cache_read_input_tokens=100, cache_creation_input_tokens=20), Usage(245, 9, 100, 20)),
        (openai(5, 9, 14, cache_read_input_tokens=100), Usage(105, 9, 100)),
        (openai(125, 9, None, cache_read_input_tokens=100), Usage(225, 9, 100)),
        # OpenAI's other interface
        ({"input_tokens": 5, "output_tokens": 9, "total_tokens": 14, "input_tokens_details": {"cached_tokens": 2},
          "output_tokens_details": {"reasoning_tokens": 3}}, Usage(5, 9, 2, 0, 3)),
        # DeepSeek
        (openai(5, 9, 14, prompt_cache_hit_tokens=3, prompt_cache_miss_tokens=2), Usage(5, 9, 3)),
        (openai(5, 9, 14, prompt_cache_hit_tokens=3), Usage(5, 9, 3)),
        # SGLang
        (openai(5, 9, 14, reasoning_tokens=8), Usage(5, 9, 0, 0, 8)),
    ],
)  # fmt: skip
def test_each_kind_of_endpoint_is_read_by_its_habits(raw: dict[str, Any], usage: Usage) -> None:
    assert read_usage(raw) == usage
    # JSON null and a missing field are the same, and what Gemini may do changes nothing for others.
    assert read_usage({key: value for key, value in raw.items() if value is not None}) == usage
    assert read_usage(raw, thoughts_in_total_only=True) == usage


@pytest.mark.parametrize(
    "raw",
    [
        None, {}, [], "3", 3, True,
        {"prompt_tokens": 5}, {"completion_tokens": 1}, {"total_tokens": 6}, {"prompt_tokens": 5, "output_tokens": 1},
        openai(-1, 1), openai(5, -1), openai(5, 1, -6),
        openai(5, 1.0), openai(5, 1.5), openai("5", 1), openai(5, True), openai(5, None), openai(None, 1),  # type: ignore[arg-type]
        openai(10**8 + 1, 1), openai(5, 10**12), openai(10**30, 1),
        openai(60_000_000, 60_000_000, 120_000_000),
        openai(5, 1, 5), openai(5, 1, 7), openai(5, 1, "6"),  # type: ignore[arg-type]
        openai(5, 1, 6, **cached(6)), openai(5, 1, 6, **cached(-1)), openai(5, 1, 6, **cached("1")),
        openai(5, 1, 6, **thoughts(2)), openai(5, 1, 6, **thoughts(-2)), openai(5, 1, 6, **thoughts(0.5)),
        openai(5, 1, 6, prompt_tokens_details={"cached_tokens": 3, "cache_write_tokens": 3}),
        openai(5, 1, 6, prompt_cache_hit_tokens=3, prompt_cache_miss_tokens=3),
        anthropic(5, 9, 100, 20, total_tokens=15), anthropic(5, 9, -1, 0),
    ],
    ids=lambda raw: str(raw)[:60],
)  # fmt: skip
def test_what_cannot_be_believed_is_unknown(raw: Any) -> None:
    assert read_usage(raw) is None


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        (openai(5, 1, 106), Usage(5, 101, 0, 0, 100)),
        (openai(5, 0, 105), Usage(5, 100, 0, 0, 100)),
        (openai(5, 1, 106, **cached(3)), Usage(5, 101, 3, 0, 100)),
        (openai(5, 1, 5), None),
        (openai(5, 1, 10**8 + 6), None),
        (openai(5, 1, 106, **cached(6)), None),
    ],
)
def test_gemini_counts_thoughts_in_the_total_and_nowhere_else(raw: dict[str, Any], usage: Usage | None) -> None:
    assert read_usage(raw, thoughts_in_total_only=True) == usage
    assert read_usage(raw) is None


FIELDS = [
    "prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens", "cache_read_input_tokens",
    "cache_creation_input_tokens", "prompt_cache_hit_tokens", "prompt_cache_miss_tokens", "reasoning_tokens",
    "prompt_tokens_details", "completion_tokens_details", "input_tokens_details", "output_tokens_details",
]  # fmt: skip
figures = st.integers(-5, 40) | st.integers(10**8 - 2, 10**8 + 2) | st.none() | st.booleans() | st.floats() | st.text()
details = st.dictionaries(st.sampled_from(["cached_tokens", "reasoning_tokens", "cache_write_tokens"]), figures)
anything = st.recursive(figures, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@given(anything | st.dictionaries(st.sampled_from(FIELDS), figures | details), st.booleans())
def test_whatever_is_read_fits_together(raw: Any, total_only: bool) -> None:
    usage = read_usage(raw, thoughts_in_total_only=total_only)

    if usage is not None:
        assert all(type(figure) is int and 0 <= figure <= MOST_TOKENS for figure in usage)
        assert usage.cached_tokens + usage.cache_write_tokens <= usage.input_tokens
        assert usage.reasoning_tokens <= usage.output_tokens
        # Whatever of it was stated plainly is not more than what is booked.
        pairs = [("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens")]
        stated = [(raw.get(a), raw.get(b)) for a, b in pairs]
        assert any(None not in pair and sum(pair) <= usage.tokens for pair in stated)


tokens = st.integers(0, 10**6)


@given(tokens, tokens, st.data())
def test_what_openai_states_is_read_as_stated(prompt: int, output: int, data: st.DataObject) -> None:
    read, thought = data.draw(st.integers(0, prompt)), data.draw(st.integers(0, output))
    raw = openai(prompt, output, prompt + output, **cached(read), **thoughts(thought))

    assert read_usage(json.loads(json.dumps(raw))) == Usage(prompt, output, read, 0, thought)


# ---- our own lower count


@pytest.mark.parametrize(
    ("stated", "sent", "received", "usage"),
    [
        (Usage(5, 1), 0, 0, Usage(5, 1)),
        (Usage(5, 1), 9, 3, Usage(5, 1)),
        (Usage(0, 0), 127, 127, Usage(0, 0)),
        (Usage(0, 0), 128, 256, Usage(1, 2)),
        (Usage(5, 1), 0, 8_000, Usage(5, 62)),
        (Usage(5, 1), 12_800, 0, Usage(100, 1)),
        (Usage(5, 10**8), 0, 8_000, Usage(5, 10**8)),
    ],
)
def test_no_usage_stays_below_what_was_provably_consumed(stated: Usage, sent: int, received: int, usage: Usage) -> None:
    assert not_below(stated, sent, received) == usage
    assert (not_below(stated, sent, received) is stated) == (stated == usage)


@given(st.builds(Usage, tokens, tokens), tokens, tokens)
def test_a_floor_never_lowers_anything(stated: Usage, sent: int, received: int) -> None:
    raised = not_below(stated, sent, received)

    assert raised.input_tokens >= max(stated.input_tokens, sent // MOST_TOKEN_BYTES)
    assert raised.output_tokens >= max(stated.output_tokens, received // MOST_TOKEN_BYTES)


def test_the_texts_of_a_prompt_are_counted_in_bytes() -> None:
    calls = (ToolCall("id", "name", '{"q": "ü"}'),)

    assert prompt_bytes(ChatRequest((ChatMessage("user", "数字"), ChatMessage("assistant", "\ud800", calls)), 1)) == 18
