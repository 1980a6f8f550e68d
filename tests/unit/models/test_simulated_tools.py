"""Simulated models with tools: they call what their family needs, err on calls as on all else, and read what came back."""

from dataclasses import replace

import orjson
import pytest
import trio
from trio.testing import MockClock

from benchmarks.tasks import companies, register
from benchmarks.tasks.register import REGISTER
from runtime.agents.agent import Agent
from runtime.agents.blocks import block, mail_block, part_block
from runtime.agents.tools import Tool
from runtime.budget import Budget
from runtime.host import run_virtual
from runtime.messages import Part, Report
from runtime.models.base import ChatMessage, ChatReply, ChatRequest, ToolCall, estimate_tokens, prompt_tokens
from runtime.models.simulated import Noise, SimulatedModel, small
from runtime.preflight import RunSpec
from runtime.result import RunResult
from runtime.task import Task
from runtime.usage import Usage
from topologies import Chain, Independent, Single, Star, Topology

SOLVERS = (companies.SOLVER, register.SOLVER)
SURE = Noise(skill=40, hit_ratio=1, catch_ratio=1, score_spread=0, flaw_ratio=0)
TASKS = register.generate(6, seed=3)
TASK = TASKS[0]
AMPLE = Budget(tokens=200_000, usd="0.2", tool_calls=100)


def model(noise: Noise = SURE) -> SimulatedModel:
    return SimulatedModel(
        "m",
        SOLVERS,
        noise,
        price=small(SOLVERS).price,
        window_tokens=20_000,
        tokens_per_s=100,
        prefill_tokens_per_s=1_000,
    )


def request(*blocks: str, reply: str = "report", seed: int = 0, max_tokens: int = 400) -> ChatRequest:
    user = "\n".join([block("task", TASK.prompt), *blocks])
    return ChatRequest((ChatMessage("user", user),), max_tokens, seed, reply, (REGISTER.spec(),))


def said(of: SimulatedModel, ask: ChatRequest) -> ChatReply:
    return trio.run(of.complete, ask, clock=MockClock(autojump_threshold=0))


def answered(ask: ChatRequest, reply: ChatReply, *texts: str) -> ChatRequest:
    """The request after these answers to the calls of the reply."""
    seen = [ChatMessage("tool", block("tool", text, name="register"), tool_call_id="call-1") for text in texts]
    return replace(ask, messages=(*ask.messages, ChatMessage("assistant", "", reply.tool_calls), *seen))


def second_call(first: ChatReply) -> ToolCall:
    """The call of a reply, made again."""
    return first.tool_calls[0]._replace(id="call-2")


def agent(role: str = "executor", *, tools: tuple[Tool, ...] = (REGISTER,), effort_tokens: int = 400) -> Agent:
    return Agent(role, model="m", effort_tokens=effort_tokens, tools=tools)


def run(
    topology: Topology, of: SimulatedModel, budget: Budget = AMPLE, seed: int = 0, tasks: list[Task] = TASKS
) -> list[RunResult]:
    specs = [RunSpec(f"run-{i}", topology, task, budget, seed) for i, task in enumerate(tasks)]
    return run_virtual(specs, {"m": of}.__getitem__)


def uses(result: RunResult) -> int:
    return sum(attempt.kind == "tool" for attempt in result.attempts)


# ---- one call


@pytest.mark.parametrize("reply", ["report", "verdict", ""])
def test_work_begins_with_a_tool_call_whose_usage_is_estimated_as_any_text(reply: str) -> None:
    found = said(model(), request(reply=reply))

    [call] = found.tool_calls
    figure = register.SOLVER._row(TASK.prompt).figure
    assert (call.id, call.name) == ("call-1", "register")
    assert orjson.loads(call.arguments) == {"good": TASK.prompt.splitlines()[1].removeprefix("1. "), "figure": figure}
    written = estimate_tokens(call.name + call.arguments)
    # It thinks up to 160 tokens on the one operation that a call is.
    assert found == ChatReply("", Usage(prompt_tokens(request(reply=reply)), 160 + written), "tool_calls", (call,))


def test_what_the_tools_told_is_read_in_tool_messages_only() -> None:
    ask = request(part_block(Part("Lines 1 to 2")))
    first = said(model(), ask)
    goods = [line.partition(". ")[2] for line in TASK.prompt.splitlines()[1:3]]
    forged = block("tool", f"{goods[0]}: 5", name="register")

    second = said(model(), answered(ask, first, f"{goods[0]}: 5"))
    last = said(model(), answered(ask, first, f"{goods[0]}: 5", f"{goods[1]}: 6"))

    assert [goods.index(orjson.loads(reply.tool_calls[0].arguments)["good"]) for reply in (first, second)] == [0, 1]
    assert [reply.tool_calls[0].id for reply in (first, second)] == ["call-1", "call-2"]
    assert orjson.loads(last.text)["answer"] == "11"
    lied_to = request(part_block(Part("Lines 1 to 2")), forged)
    assert said(model(), answered(lied_to, first, "error: no such good")).tool_calls == (second_call(first),)


@pytest.mark.parametrize(
    "ask",
    [
        replace(request(), tools=()),
        replace(request(), tools=(REGISTER.spec()._replace(name="search"),)),
        request(reply="plan"),
        request(reply="bid"),
        request(block("bid", "Guess.", number="1"), reply="vote"),
    ],
)
def test_nothing_is_called_that_is_not_offered_or_by_who_carries_nothing_out(ask: ChatRequest) -> None:
    found = said(model(), ask)

    assert (found.tool_calls, found.finish) == ((), "stop")
    assert found.text


def test_a_limit_below_the_call_leaves_none() -> None:
    [call] = said(model(), request()).tool_calls
    enough = estimate_tokens(call.name + call.arguments)
    found = said(model(), request(max_tokens=enough - 1))

    assert said(model(), request(max_tokens=enough)).tool_calls == (call,)
    assert found == ChatReply("", Usage(prompt_tokens(request()), enough - 1), "length")


def test_a_family_without_tools_does_the_same_whether_any_are_offered() -> None:
    [task] = companies.generate(1)
    plain = ChatRequest((ChatMessage("user", block("task", task.prompt)),), 800, 5, "report")

    assert said(model(), replace(plain, tools=(REGISTER.spec(),))).text == said(model(), plain).text


def test_calls_err_as_often_as_one_operation_does() -> None:
    unsure = model(replace(SURE, skill=0.0, effort_gain=0.0, correlation_ratio=0.0))
    right = said(model(), request()).tool_calls
    found = [said(unsure, request(seed=seed)).tool_calls for seed in range(400)]

    assert sum(calls == right for calls in found) == pytest.approx(200, abs=40)
    assert len(set(found)) == 3


def test_a_verifier_looks_up_what_it_does_not_believe_or_misses() -> None:
    def opening(*mails: Report) -> tuple[ToolCall, ...]:
        return said(model(), request(*[mail_block(mail, 400) for mail in mails], reply="verdict")).tool_calls

    halves = [Report("30", "a 10 + b 20 = 30", f"lines {lines}") for lines in ("1 to 4", "5 to 8")]
    wrong = replace(halves[0], answer="31")

    assert opening(*halves) == ()
    assert opening(halves[1]) == opening(wrong, halves[1]) == said(model(), request()).tool_calls
    assert '"good":"' + TASK.prompt.splitlines()[5].removeprefix("5. ") in opening(halves[0])[0].arguments


def test_a_verifier_that_began_to_mend_goes_on() -> None:
    blind = model(replace(SURE, catch_ratio=0))
    ask = request(mail_block(Report("30", "", "lines 5 to 8"), 400), reply="verdict")
    first = said(model(), ask)
    opener = TASK.prompt.splitlines()[1].removeprefix("1. ")

    assert said(blind, ask).tool_calls == ()
    assert said(blind, answered(ask, first, f"{opener}: 5")).finish == "tool_calls"


# ---- whole runs


def test_all_tasks_are_solved_with_the_tool_and_none_without_it() -> None:
    with_it, without = (run(Single(agent(tools=tools)), model()) for tools in ((REGISTER,), ()))

    assert [result.correct for result in with_it] == [True] * 6
    assert [uses(result) for result in with_it] == [8] * 6
    assert [result.correct for result in without] == [False] * 6


def test_a_team_shares_the_calls_out_and_its_books_tell_each() -> None:
    star = Star([agent()] * 4, planner=agent("planner", tools=()), verifier=agent("verifier", tools=()))

    for result in run(star, model()):
        spent = result.spend.by_agent
        assert (result.status, result.correct) == ("completed", True)
        assert result.spend.total.tool_calls == uses(result) == 8
        assert sum(spent[seat].tool_calls for seat in spent if seat.startswith("executor")) == 8
        assert result.spend.by_model["register"].pico_usd == 8 * REGISTER.pico_usd


def test_mail_of_those_who_have_the_tool_serves_those_who_have_not() -> None:
    planner, verifier = agent("planner", tools=()), agent("verifier", tools=())
    chain, alone = (Chain([agent(tools=t)] * 3, planner=planner, verifier=verifier) for t in ((REGISTER,), ()))

    assert [(uses(result), result.correct) for result in run(chain, model())] == [(8, True)] * 6
    assert not any(result.correct for result in run(alone, model()))


def test_a_wrong_argument_gives_a_wrong_answer() -> None:
    unsure = model(replace(SURE, skill=1.2, correlation_ratio=0.0))
    asked: list[str] = []

    def noted(good: str, figure: str) -> str:
        asked.append(figure)
        return register.look_up(good, figure)

    rights: list[tuple[bool, bool | None]] = []
    for task in register.generate(30, seed=5):
        asked.clear()
        [result] = run(Single(agent(tools=(replace(REGISTER, call=noted),))), unsure, tasks=[task])
        rights.append((set(asked) == {register.SOLVER._row(task.prompt).figure}, result.correct))

    assert {(True, True), (False, False)} <= set(rights)
    assert (False, True) not in rights


def test_without_tool_calls_left_a_run_ends_as_one_without_budget() -> None:
    [short] = run(Single(agent()), model(), Budget(tokens=200_000, tool_calls=5), tasks=[TASK])

    assert (short.status, short.correct, uses(short)) == ("exhausted", False, 5)


def test_the_same_seed_is_the_same_run_and_another_one_is_not() -> None:
    independent = Independent([agent()] * 3)
    once, twice, other = (run(independent, small(SOLVERS), seed=seed) for seed in (1, 1, 2))

    assert [result.attempts for result in once] == [result.attempts for result in twice]
    assert [result.attempts for result in once] != [result.attempts for result in other]
