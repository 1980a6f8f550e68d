"""What is sent: one form for all endpoints, and nothing in it that some of them refuse."""

from typing import Any

import pytest

from runtime.messages import KINDS, reply_schema
from runtime.models.base import ChatMessage, ChatRequest, ToolCall, ToolSpec
from runtime.models.spec import ModelSpec
from runtime.models.wire import request_body

SEARCH = ToolSpec("search", "Find.", {"type": "object"})
TALK = (
    ChatMessage("system", "s"),
    ChatMessage("assistant", "", (ToolCall("c", "search", "{}"),)),
    ChatMessage("tool", "t", (), "c"),
)
FULL = ChatRequest(TALK, 77, 2**63 - 1, "plan", (SEARCH,), 3)


def sent(request: ChatRequest = FULL, **fields: Any) -> dict[str, Any]:
    return request_body(request, ModelSpec(endpoint="http://127.0.0.1:9/v1", model="m", key_env="", **fields))


def test_everything_that_was_asked_is_written_down() -> None:
    assert sent() == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "s"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "search", "arguments": "{}"}}],
            },
            {"role": "tool", "content": "t", "tool_call_id": "c"},
        ],
        "seed": 2**63 - 1,
        "max_tokens": 77,
        "logprobs": True,
        "top_logprobs": 3,
        "response_format": {"type": "json_schema", "json_schema": {"name": "plan", "schema": reply_schema("plan")}},
        "tools": [
            {
                "type": "function",
                "function": {"name": "search", "description": "Find.", "parameters": {"type": "object"}},
            }
        ],
    }


def test_what_was_not_asked_is_not_written_down() -> None:
    assert sent(ChatRequest((ChatMessage("user", "u"),), 7), send_schema=False) == {
        "model": "m",
        "messages": [{"role": "user", "content": "u"}],
        "seed": 0,
        "max_tokens": 7,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_shape_of_each_typed_reply_is_a_schema_without_the_sender(kind: str) -> None:
    schema = sent(ChatRequest((), 7, reply=kind))["response_format"]["json_schema"]["schema"]

    assert schema["type"] == "object"
    assert "sender" not in str(schema)


@pytest.mark.parametrize(
    ("fields", "there", "not_there"),
    [
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}, ()),
        ({"stream": True, "stream_usage": False}, {"stream": True}, ("stream_options",)),
        ({}, {}, ("stream", "stream_options", "n", "max_completion_tokens")),
        ({"limit_field": "max_completion_tokens"}, {"max_completion_tokens": 77}, ("max_tokens",)),
        ({"limit_field": "window", "window_tokens": 9}, {}, ("max_tokens", "max_completion_tokens")),
        ({"seed_bits": 31}, {"seed": 2**31 - 1}, ()),
        ({"seed_bits": 0}, {}, ("seed",)),
        ({"send_schema": False}, {}, ("response_format",)),
    ],
)
def test_a_spec_chooses_the_fields(fields: dict[str, Any], there: dict[str, Any], not_there: tuple[str, ...]) -> None:
    body = sent(**fields)

    assert {key: body.get(key) for key in there} == there
    assert not set(not_there) & set(body)
