"""Golden bills: answers as the kinds of providers write them, and to the pico-dollar what each costs."""

import json
from typing import Any

import pytest

from runtime.models.base import ChatMessage, ChatReply, ChatRequest
from runtime.models.replies import PlainReply, expected
from runtime.models.spec import ModelSpec
from runtime.models.stream import StreamedReply
from runtime.usage import Usage

ASK = ChatRequest((ChatMessage("user", "How many?"),), max_tokens=10_000)


def spec(endpoint: str, model: str, **prices: Any) -> ModelSpec:
    return ModelSpec(endpoint=endpoint, model=model, key_env="SOME_KEY", **prices)


OPENAI = spec("https://api.openai.com/v1", "gpt-4o-mini", input_usd="0.15", output_usd="0.60", cached_usd="0.075")
ANTHROPIC = spec(
    "https://gateway.example/v1",
    "claude-sonnet-4-5",
    input_usd=3,
    output_usd=15,
    cached_usd="0.30",
    cache_write_usd="3.75",
)
GEMINI = spec(
    "https://generativelanguage.googleapis.com/v1beta/openai",
    "gemini-2.5-pro",
    input_usd="1.25",
    output_usd=10,
    cached_usd="0.125",
    tiers=[{"above_tokens": 200_000, "input_usd": 2.5, "output_usd": 15, "cached_usd": 0.25}],
)
DEEPSEEK = spec("https://api.deepseek.com", "deepseek-reasoner", input_usd="0.27", output_usd="1.10", cached_usd="0.07")
VLLM = spec("http://127.0.0.1:8000/v1", "Qwen/Qwen3-8B", input_usd="0.1", output_usd="0.4")
XAI = spec("https://api.x.ai/v1", "grok-4", input_usd=3, output_usd=15, cached_usd="0.75")

BILLS: dict[str, tuple[ModelSpec, dict[str, Any], Usage, int]] = {
    "openai": (
        OPENAI,
        {
            "prompt_tokens": 2006,
            "completion_tokens": 300,
            "total_tokens": 2306,
            "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        Usage(2006, 300, 1920),
        86 * 150_000 + 1920 * 75_000 + 300 * 600_000,
    ),
    "openai, thinking": (
        OPENAI,
        {
            "prompt_tokens": 75,
            "completion_tokens": 1186,
            "total_tokens": 1261,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 1024},
        },
        Usage(75, 1186, 0, 0, 1024),
        75 * 150_000 + 1186 * 600_000,
    ),
    "anthropic": (
        ANTHROPIC,
        {
            "input_tokens": 50,
            "cache_creation_input_tokens": 248,
            "cache_read_input_tokens": 18_000,
            "cache_creation": {"ephemeral_5m_input_tokens": 248, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 503,
            "service_tier": "standard",
        },
        Usage(18_298, 503, 18_000, 248),
        50 * 3_000_000 + 248 * 3_750_000 + 18_000 * 300_000 + 503 * 15_000_000,
    ),
    "anthropic, by a gateway under OpenAI's names": (
        ANTHROPIC,
        {
            "prompt_tokens": 18_298,
            "completion_tokens": 503,
            "total_tokens": 18_801,
            "prompt_tokens_details": {"cached_tokens": 18_000, "cache_creation_tokens": 248},
            "cache_creation_input_tokens": 248,
            "cache_read_input_tokens": 18_000,
        },
        Usage(18_298, 503, 18_000, 248),
        50 * 3_000_000 + 248 * 3_750_000 + 18_000 * 300_000 + 503 * 15_000_000,
    ),
    "gemini, its thoughts in the total only": (
        GEMINI,
        {"prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1700},
        Usage(1000, 700, 0, 0, 500),
        1000 * 1_250_000 + 700 * 10_000_000,
    ),
    "gemini, a long prompt": (
        GEMINI,
        {
            "prompt_tokens": 250_000,
            "completion_tokens": 800,
            "total_tokens": 250_800,
            "prompt_tokens_details": {"cached_tokens": 50_000},
        },
        Usage(250_000, 800, 50_000),
        200_000 * 2_500_000 + 50_000 * 250_000 + 800 * 15_000_000,
    ),
    "gemini, the longest of the short prompts": (
        GEMINI,
        {"prompt_tokens": 200_000, "completion_tokens": 1, "total_tokens": 200_001},
        Usage(200_000, 1),
        200_000 * 1_250_000 + 10_000_000,
    ),
    "deepseek": (
        DEEPSEEK,
        {
            "prompt_tokens": 1200,
            "completion_tokens": 400,
            "total_tokens": 1600,
            "prompt_tokens_details": {"cached_tokens": 1024},
            "completion_tokens_details": {"reasoning_tokens": 350},
            "prompt_cache_hit_tokens": 1024,
            "prompt_cache_miss_tokens": 176,
        },
        Usage(1200, 400, 1024, 0, 350),
        176 * 270_000 + 1024 * 70_000 + 400 * 1_100_000,
    ),
    "vllm": (
        VLLM,
        {"prompt_tokens": 34, "total_tokens": 290, "completion_tokens": 256, "prompt_tokens_details": None},
        Usage(34, 256),
        34 * 100_000 + 256 * 400_000,
    ),
    "sglang, thinking": (
        VLLM,
        {"prompt_tokens": 34, "total_tokens": 290, "completion_tokens": 256, "reasoning_tokens": 200},
        Usage(34, 256, 0, 0, 200),
        34 * 100_000 + 256 * 400_000,
    ),
    "xai, its thoughts beside the completion": (
        XAI,
        {
            "prompt_tokens": 900,
            "completion_tokens": 12,
            "total_tokens": 1400,
            "prompt_tokens_details": {"text_tokens": 900, "cached_tokens": 512},
            "completion_tokens_details": {"reasoning_tokens": 488},
            "num_sources_used": 0,
        },
        Usage(900, 500, 512, 0, 488),
        388 * 3_000_000 + 512 * 750_000 + 500 * 15_000_000,
    ),
}


def plain(spec: ModelSpec, usage: object) -> ChatReply:
    reply = PlainReply(expected("m", spec, ASK, 0))
    message = {"role": "assistant", "content": "It is forty-two."}
    body = {"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
    reply.feed(json.dumps(body).encode())
    return reply.result()


def streamed(spec: ModelSpec, usage: object) -> ChatReply:
    reply = StreamedReply(expected("m", spec, ASK, 0))
    for chunk in (
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "It is "}}], "usage": None},
        {"choices": [{"index": 0, "delta": {"content": "forty-two."}, "finish_reason": "stop"}]},
        {"choices": [], "usage": usage},
    ):
        reply.feed(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    reply.feed(b"data: [DONE]\n\n")
    return reply.result()


@pytest.mark.parametrize("read", [plain, streamed])
@pytest.mark.parametrize("kind", BILLS)
def test_a_bill_is_right_to_the_pico_dollar(kind: str, read: Any) -> None:
    spec, usage, used, pico = BILLS[kind]

    reply = read(spec, usage)

    assert spec.price is not None
    assert reply == ChatReply("It is forty-two.", used)
    assert spec.price.cost(reply.usage) == pico
    assert pico <= spec.price.ceiling(Usage(used.input_tokens, used.output_tokens))
