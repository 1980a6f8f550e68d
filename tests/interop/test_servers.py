"""Servers that others wrote: whatever they leave out or get wrong, the books are exact or charged at maximum."""

import pytest

from runtime.agents.agent import Agent
from runtime.agents.tools import Tool
from runtime.budget import Budget
from runtime.driver import Runtime
from runtime.errors import ConfigError, ModelError, ModelRefused
from runtime.models.base import ChatMessage, ChatRequest
from runtime.models.openai import OpenAIModel
from runtime.models.spec import ModelSpec
from runtime.result import RunResult
from runtime.task import Task
from tests.interop.conftest import WORDS, Server
from topologies import Independent, Single, Topology

pytestmark = [pytest.mark.anyio, pytest.mark.interop]

TASK = Task("How much is six times seven? Answer with the number.", answer="42")
BRIEF = Agent("executor", model="m", effort_tokens=16)
"""Random weights never come to an end by themselves."""
LOOK = Tool("look", "Looks.", lambda: "seen", {})


def spec(server: Server, **more: object) -> ModelSpec:
    common: dict[str, object] = {
        "endpoint": server.base_url,
        "model": server.model,
        "key_env": "",
        "input_usd": 1,
        "output_usd": 2,
    }
    # llama-cpp-python answers 500 to a json_schema.
    common["send_schema"] = server.model != "tiny"
    return ModelSpec(**{**common, "window_tokens": 4_096, "timeout_s": 300, **more})  # type: ignore[arg-type]


async def run(server: Server, topology: Topology, budget: Budget, **more: object) -> RunResult:
    async with Runtime(models={"m": spec(server, **more)}) as runtime:
        return await runtime.run(topology, TASK, budget=budget)


def check_books(result: RunResult, *, most_over: int = 0) -> None:
    """Every attempt is exact or charged at maximum, and nothing above the budget was spent."""
    assert result.attempts, result.reason
    for attempt in result.attempts:
        assert attempt.state in {"settled", "charged_max", "released"}, attempt
        spent = attempt.input_tokens + attempt.output_tokens
        if attempt.state == "charged_max":
            assert spent == attempt.held_tokens
        elif attempt.state == "settled":
            assert spent > 0 or attempt.kind == "tool"
    assert max(result.overspend.values()) <= most_over
    assert result.books["tokens"]["settled"] == result.spend.total.tokens


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_a_generating_server(llama: Server, stream: bool) -> None:
    result = await run(llama, Single(BRIEF), Budget(tokens=8_000), limit_field="max_tokens", stream=stream)

    check_books(result)
    states = {attempt.state for attempt in result.attempts}
    # In a stream it tells no usage, so nobody can know; in a plain reply it does.
    assert states == ({"charged_max"} if stream else {"settled"})


async def test_a_server_that_fails_on_a_schema_is_charged_for_every_try(llama: Server) -> None:
    result = await run(llama, Single(BRIEF), Budget(tokens=60_000), limit_field="max_tokens", send_schema=True)

    check_books(result)
    assert result.status == "failed"
    assert [attempt.state for attempt in result.attempts] == ["charged_max"] * 4


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_a_server_that_plays_fixtures_and_obeys_no_limit(aimock: Server, stream: bool) -> None:
    result = await run(aimock, Single(BRIEF), Budget(tokens=8_000), limit_field="window", stream=stream)

    check_books(result)
    assert (result.status, result.answer) == ("completed", WORDS)
    assert [(a.state, a.input_tokens, a.output_tokens) for a in result.attempts] == [("settled", 300, 40)]


async def test_the_limit_that_is_obeyed_is_found_and_paid_for(llama: Server) -> None:
    """It honours max_tokens and ignores max_completion_tokens."""
    result = await run(llama, Single(BRIEF), Budget(tokens=12_000))

    check_books(result)
    assert [a.kind for a in result.attempts if a.kind == "probe"], "the probe is in the journal"
    assert {a.kind for a in result.attempts} == {"probe", "work"}


async def test_a_server_that_obeys_no_limit_is_refused_with_the_cure(aimock: Server) -> None:
    result = await run(aimock, Single(BRIEF), Budget(tokens=12_000))

    assert result.status == "failed"
    assert "obeys neither" in result.reason
    assert 'limit_field = "window"' in result.reason


async def test_a_limit_is_kept_to_the_token_or_one_beyond(llama: Server) -> None:
    """One beyond, where a character of several bytes would be split."""
    model = OpenAIModel("m", spec(llama, limit_field="max_tokens"))
    for most in (1, 16, 200):
        reply = await model.complete(ChatRequest((ChatMessage("user", "Write."),), most, seed=most))
        assert reply.usage is not None
        assert reply.usage.output_tokens <= most + 1
        bound = model.bound(ChatRequest((ChatMessage("user", "Write."),), most))
        assert reply.usage.input_tokens <= bound.input_tokens
    await model.aclose()


async def test_a_seed_gives_the_same_reply_again(llama: Server) -> None:
    model = OpenAIModel("m", spec(llama, limit_field="max_tokens"))
    asked = [ChatRequest((ChatMessage("user", "Write."),), 40, seed=seed) for seed in (1, 1, 2)]
    first, again, other = [(await model.complete(request)).text for request in asked]
    await model.aclose()

    assert first == again != other


async def test_a_prompt_beyond_the_context_is_refused_and_costs_nothing(llama: Server) -> None:
    model = OpenAIModel("m", spec(llama, limit_field="max_tokens", window_tokens=100_000))
    with pytest.raises(ModelRefused) as caught:
        await model.complete(ChatRequest((ChatMessage("user", "x y z " * 2_000),), 16))
    await model.aclose()

    assert not caught.value.billed


async def test_logprobs_where_they_are_offered(llama: Server) -> None:
    model = OpenAIModel("m", spec(llama, limit_field="max_tokens"))
    reply = await model.complete(ChatRequest((ChatMessage("user", "Write."),), 8, logprobs=2))
    await model.aclose()

    assert reply.logprobs
    assert all(token.logprob <= 0 for token in reply.logprobs)


async def test_a_tool_call_costs_what_it_says(aimock: Server) -> None:
    agent = Agent("executor", model="m", tools=(LOOK,))
    result = await run(aimock, Single(agent), Budget(tokens=60_000, tool_calls=3), limit_field="window")

    check_books(result)
    assert result.spend.total.tool_calls in {1, 2, 3}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_many_at_once_under_one_cap(llama: Server, stream: bool) -> None:
    result = await run(llama, Independent([BRIEF] * 32), Budget(tokens=30_000), limit_field="max_tokens", stream=stream)

    check_books(result)
    assert result.spend.total.tokens <= 30_000


async def test_streams_that_are_silently_cut_are_no_replies(rude_llama: Server) -> None:
    """Its default lets each new request cut the streams of the others, without an error and without a finish_reason."""
    result = await run(
        rude_llama, Independent([BRIEF] * 16), Budget(tokens=200_000), limit_field="max_tokens", stream=True
    )

    check_books(result)
    for attempt in result.attempts:
        if not attempt.finish:
            assert attempt.state == "charged_max", "cut off, so nobody knows what it cost"


async def test_what_nobody_serves_is_told(llama: Server) -> None:
    model = OpenAIModel(
        "m", ModelSpec(endpoint=llama.base_url + "/nothing", model="m", key_env="", limit_field="max_tokens")
    )
    with pytest.raises(ModelError):
        await model.complete(ChatRequest((ChatMessage("user", "Write."),), 8))
    await model.aclose()


def test_an_endpoint_that_is_not_openais_needs_the_name_of_a_key(llama: Server) -> None:
    with pytest.raises(ConfigError, match="key_env"):
        ModelSpec(endpoint=llama.base_url, model="m")
