"""What the client for endpoints works out without one: bounds, errors, waiting times, clean texts."""

import json
import pickle
from collections.abc import Iterator

import httpx2
import openai
import pytest

from runtime.errors import BadModelReply, ModelRateLimited, ModelRefused, ModelTimeout, ModelUnavailable
from runtime.models.base import ChatMessage, ChatRequest, ToolCall, ToolSpec
from runtime.models.openai import OpenAIModel, failure_of
from runtime.models.spec import ModelSpec
from runtime.models.wire import clean, retry_after_s
from runtime.usage import Price, Usage

CANARY = "sk-CANARY-0123456789"
SPEC = ModelSpec(endpoint="http://127.0.0.1:9/v1", model="m", key_env="")
ASK = ChatRequest((ChatMessage("user", "How many?"),), max_tokens=100)
SEARCH = ToolSpec("search", "Find companies.", {"type": "object", "properties": {"q": {"type": "string"}}})


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (f"key {CANARY}!", "key [key]!"),
        ("sk-abc***wxyz is wrong", "[key] is wrong"),
        ("sent Bearer abc.def", "sent [key]"),
        ("a risk-free task-list", "a risk-free task-list"),
        ("red\x1b[31m\r\n  and\tblue", "red [31m and blue"),
        ("x" * 1_000, "x" * 300 + " ..."),
    ],
)
def test_foreign_text_is_cleaned(text: str, cleaned: str) -> None:
    assert clean(text, CANARY) == cleaned


def test_a_key_of_any_form_is_cleaned_away() -> None:
    assert clean("'My+Own.Key9' is wrong", "My+Own.Key9") == "'[key]' is wrong"


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "86400"}, 86_400.0),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e999"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "Fri, 20 Nov 2026 12:00:30 GMT", "date": "Fri, 20 Nov 2026 12:00:00 GMT"}, 30.0),
        ({"retry-after": "Fri, 20 Nov 2026 11:00:00 GMT", "date": "Fri, 20 Nov 2026 12:00:00 GMT"}, 0.0),
        ({"retry-after": "Fri, 20 Nov 2026 12:00:30 GMT"}, None),
        ({"retry-after": "Fri, 20 Nov 2026 12:00:30 GMT", "date": "Fri, 20 Nov 2026 12:00:00 -0000"}, None),
        ({"retry-after": "Fri, 99 Nov 2026 12:00:30 GMT", "date": "Fri, 20 Nov 2026 12:00:00 GMT"}, None),
    ],
)
def test_retry_after_is_read_or_none(headers: dict[str, str], wait_s: float | None) -> None:
    assert retry_after_s(headers) == wait_s


# ---- every error the SDK has


def sdk_errors(cls: type[openai.APIError] = openai.APIError) -> Iterator[type[openai.APIError]]:
    yield cls
    for sub in cls.__subclasses__():
        yield from sdk_errors(sub)


def made(cls: type[openai.APIError]) -> openai.APIError:
    request = httpx2.Request("POST", "http://127.0.0.1/v1", headers={"Authorization": f"Bearer {CANARY}"})
    text = f"it went wrong with {CANARY}"
    if issubclass(cls, openai.APITimeoutError):
        return cls(request)
    if issubclass(cls, openai.APIConnectionError):
        return cls(message=text, request=request)
    response = httpx2.Response(getattr(cls, "status_code", 500), request=request)
    if issubclass(cls, openai.APIResponseValidationError):
        return cls(response, None, message=text)
    if issubclass(cls, openai.OAuthError):
        return cls(response=response, body={"error": "invalid_grant", "error_description": text})
    if issubclass(cls, openai.APIStatusError):
        return cls(text, response=response, body=None)
    return cls(text, request, body=None)


KNOWN = {
    "APIError": BadModelReply,
    "APIResponseValidationError": BadModelReply,
    "APIStatusError": ModelUnavailable,
    "APIConnectionError": ModelUnavailable,
    "APITimeoutError": ModelTimeout,
    "RateLimitError": ModelRateLimited,
    "InternalServerError": ModelUnavailable,
}


@pytest.mark.parametrize("cls", sorted(set(sdk_errors()), key=str), ids=str)
def test_every_error_of_the_sdk_becomes_one_of_ours_without_the_key(cls: type[openai.APIError]) -> None:
    error = failure_of(made(cls), "m", 2.0, CANARY)

    assert type(error) is KNOWN.get(cls.__name__, ModelRefused)
    assert CANARY not in f"{error!r} {error}"
    assert pickle.loads(pickle.dumps(error)).args == error.args


# ---- the bound


TEXTS = ["", "plain words", "Größe 数字 🙂", '{"a": [1, 2]}', "\n" * 50]


@pytest.mark.parametrize("text", TEXTS)
def test_the_bound_is_all_bytes_of_the_prompt_and_a_margin(text: str) -> None:
    model = OpenAIModel("m", SPEC)
    call = ToolCall(text, text, text)
    asked = ChatRequest((ChatMessage("user", text), ChatMessage("assistant", text, (call,))), 77)

    assert model.bound(asked) == Usage(5 * len(text.encode()) + 3 * 16 + 256, 77)


def test_tools_and_the_shape_of_the_reply_count_at_their_widest() -> None:
    model, shapeless = OpenAIModel("m", SPEC), OpenAIModel("m", SPEC.model_copy(update={"send_schema": False}))
    typed, tooled = ChatRequest(ASK.messages, 1, 0, "plan"), ChatRequest(ASK.messages, 1, 0, "", (SEARCH,))
    plain = model.bound(ASK).input_tokens

    assert model.bound(typed).input_tokens > plain + 300
    assert shapeless.bound(typed).input_tokens == plain
    assert model.bound(tooled).input_tokens >= plain + 256 + len(json.dumps(SEARCH.parameters, indent=4))


def test_prices_and_window_come_from_the_spec() -> None:
    spec = ModelSpec(
        endpoint="http://127.0.0.1:9/v1", model="m", key_env="", input_usd=1, output_usd=2, window_tokens=10
    )
    model, plain = OpenAIModel("m", spec), OpenAIModel("m", SPEC)

    assert (model.price, model.window_tokens) == (Price(1_000_000, 2_000_000), 10)
    assert (plain.price, plain.window_tokens) == (None, 8_192)
    assert repr(plain) == "OpenAIModel('m', 'm' at http://127.0.0.1:9/v1)"
