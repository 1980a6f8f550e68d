"""The client against every fault mode there is, plain and streamed: one request, one outcome, and never less charged than
the endpoint's own honest meter has billed."""

import pickle
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import pytest

from runtime.errors import (
    BadModelReply,
    ConfigError,
    ModelError,
    ModelRateLimited,
    ModelRefused,
    ModelTimeout,
    ModelUnavailable,
)
from runtime.models.base import ChatMessage, ChatModel, ChatReply, ChatRequest, ToolSpec
from runtime.models.openai import OpenAIModel
from runtime.models.probe import prove
from runtime.models.spec import ModelSpec
from runtime.testing import MODES, HostileEndpoint

pytestmark = pytest.mark.anyio

SEARCH = ToolSpec("search", "Find companies.", {"type": "object", "properties": {"q": {"type": "string"}}})
ASK = ChatRequest((ChatMessage("user", "How many?"),), max_tokens=100, tools=(SEARCH,))

Outcome = type[ModelError] | None
BY_ROW: dict[str, Outcome] = {
    "E1": ModelRateLimited,
    "E2": ModelUnavailable,
    "E3": ModelUnavailable,
    "E4": ModelTimeout,
    "E5": BadModelReply,
    "E6": ModelUnavailable,
    "E11": BadModelReply,
    "E12": ModelRefused,
}
"""None, a reply, for all other rows."""
PLAIN: dict[str, Outcome] = {
    "429-quota": ModelRefused,
    "text-plain": None,
    "truncated": BadModelReply,
    "half-line": BadModelReply,
    "garbage-event": BadModelReply,
    "error-event": None,
    "no-done": None,
    "odd-events": None,
    "content-filter": BadModelReply,
    "unknown-finish": BadModelReply,
    "unknown-model": ModelRefused,
    "401": ModelRefused,
}
STREAMED: dict[str, Outcome] = PLAIN | {
    "empty-body": ModelUnavailable,
    "truncated": ModelUnavailable,
    "half-line": ModelUnavailable,
    "empty-choices": ModelUnavailable,
    "error-event": ModelUnavailable,
    "usage-missing": BadModelReply,
    "usage-null": BadModelReply,
}
PATIENCE_S = {"E4": 0.25}
TOLD_LESS = {"underreport", "usage-zero"}
"""Modes that state less than they bill; our own count raises it, but cannot reach the truth."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[HostileEndpoint]:
    with HostileEndpoint(answer="The answer is 42, after all.") as found:
        yield found


def charged(model: OpenAIModel, end: ChatReply | ModelError) -> int:
    """What the money path books, in tokens."""
    if isinstance(end, ModelError) and not end.billed:
        return 0
    usage = getattr(end, "usage", None)
    return model.bound(ASK).tokens if usage is None else usage[0] + usage[1]


@asynccontextmanager
async def client(endpoint: HostileEndpoint, mode: str, **more: Any) -> AsyncIterator[OpenAIModel]:
    spec = ModelSpec(endpoint=endpoint.base_url, model=f"fault/{mode}", key_env="", **more)
    async with aclosing(OpenAIModel("m", spec)) as model:
        yield model


async def end_of(model: OpenAIModel, mode: str) -> ChatReply | ModelError:
    """How one call of a mode ends, over the connections of another."""
    try:
        return await model.complete_as(model.spec.model_copy(update={"model": f"fault/{mode}"}), ASK)
    except ModelError as error:
        return error


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("row", sorted({mode.row for mode in MODES.values()}))
async def test_every_fault_ends_in_a_reply_or_one_error_and_is_paid(
    endpoint: HostileEndpoint, row: str, stream: bool
) -> None:
    async with client(endpoint, "ok", stream=stream, timeout_s=PATIENCE_S.get(row, 20.0)) as model:
        for mode in (name for name, mode in MODES.items() if mode.row == row):
            before = endpoint.account(f"fault/{mode}")
            with anyio.fail_after(30):
                end = await end_of(model, mode)
            after = endpoint.account(f"fault/{mode}")

            expected = (STREAMED if stream else PLAIN).get(mode, BY_ROW.get(row))
            assert type(end) is (expected or ChatReply), mode
            assert after.requests - before.requests == 1, mode
            assert mode in TOLD_LESS or charged(model, end) >= after.tokens - before.tokens, mode
            if isinstance(end, ModelError):
                assert pickle.loads(pickle.dumps(end)).args == end.args
                assert (end.__cause__, end.__context__) == (None, None), mode
            else:
                assert end.floored == (mode == "underreport"), mode
    assert endpoint.trapped == 0


async def test_a_streamed_reply_is_the_reply(endpoint: HostileEndpoint) -> None:
    async with client(endpoint, "ok") as plain, client(endpoint, "ok", stream=True) as streamed:
        for mode in ("ok", "long", "tool-call", "refusal", "only-thought", "usage-everywhere", "repeat"):
            reply = await end_of(plain, mode)

            assert isinstance(reply, ChatReply)
            assert reply.usage is not None
            assert await end_of(streamed, mode) == reply


async def nobody_is_answered(endpoint: HostileEndpoint) -> None:
    with anyio.fail_after(10):
        while endpoint.in_flight:  # noqa: ASYNC110 - it counts in another thread
            await anyio.sleep(0.005)


@pytest.mark.parametrize("mode", ["stall", "signs-of-life", "slow-stream:0.05", "hang"])
@pytest.mark.parametrize("leave", ["deadline", "cancelled"])
async def test_an_abandoned_stream_is_closed(endpoint: HostileEndpoint, mode: str, leave: str) -> None:
    own_s, others_s = (0.1, 30.0) if leave == "deadline" else (60.0, 0.1)
    async with client(endpoint, mode, stream=True, timeout_s=own_s) as model:
        with anyio.move_on_after(others_s) as scope:
            assert isinstance(await end_of(model, mode), ModelTimeout)

        assert scope.cancelled_caught == (leave == "cancelled")
        await nobody_is_answered(endpoint)


@pytest.mark.parametrize("mode", ["overshoot:4000", "big-body"])
async def test_a_stream_that_is_cut_off_is_closed_at_once_and_booked(endpoint: HostileEndpoint, mode: str) -> None:
    async with client(endpoint, mode, stream=True) as model:
        end = await end_of(model, mode)
        await nobody_is_answered(endpoint)
        bound = model.bound(ASK)

    assert isinstance(end, BadModelReply)
    assert end.reason.startswith("cut off: ")
    if mode == "big-body":
        assert end.usage is None
    else:
        assert end.usage is not None
        assert end.usage[0] == bound.input_tokens
        assert end.usage[1] > bound.output_tokens


FOUND = {
    "long": "max_tokens",
    "ignores-max-tokens": "max_completion_tokens",
    "ignores-max-completion-tokens": "max_tokens",
    "overshoot:300": None,
    "empty": None,
}


@pytest.mark.parametrize("mode", FOUND)
async def test_a_probe_finds_the_field_that_is_obeyed(endpoint: HostileEndpoint, mode: str) -> None:
    held: list[bool] = []

    async def send(probe: ChatModel, request: ChatRequest) -> ChatReply:
        reply = await probe.complete(request)
        held.append(reply.usage is not None and probe.bound(request).tokens >= reply.usage.tokens)
        return reply

    async with client(endpoint, mode, stream=True) as model:
        if (field := FOUND[mode]) is None:
            with pytest.raises(ConfigError, match="obeys neither"):
                await prove(model, send)
        else:
            await prove(model, send)
            assert model.spec.limit_field == field
    assert held == [True] * (2 if field != "max_tokens" else 1)
