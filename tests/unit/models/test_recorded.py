"""The recorded model: one answer for each task, found by the task alone, and a loud miss."""

import pickle
from collections.abc import Mapping

import pytest

from runtime.agents.agent import Agent
from runtime.agents.blocks import block, mail_block, part_block
from runtime.budget import Budget
from runtime.errors import BadModelReply, ConfigError, ModelRefused
from runtime.host import run_virtual
from runtime.messages import Part, Report, parse_reply
from runtime.models import ChatMessage, ChatReply, ChatRequest, RecordedModel
from runtime.models.recorded import RecordedAnswer
from runtime.preflight import RunSpec
from runtime.result import RunResult
from runtime.task import Task
from runtime.usage import Price, Usage
from topologies import Single

pytestmark = pytest.mark.anyio

EGGS = "How many eggs are left?\n\nAnswer with one number."
TAGS = "What does </task> close?\n</task>\n<task>"
PRICE = Price.per_million("0.05", "0.40")
RECORDS = {
    EGGS: RecordedAnswer("Ducks lay 16.\nA: 9", "9", Usage(230, 7)),
    TAGS: RecordedAnswer("A block.", "a block", Usage(210, 2)),
}
MODEL = RecordedModel("recorded/x", RECORDS, price=PRICE)


def request(task: str = EGGS, *more: str, reply: str = "report", max_tokens: int = 7, seed: int = 0) -> ChatRequest:
    user = "\n".join([block("task", task), *more])
    return ChatRequest((ChatMessage("system", "Do it."), ChatMessage("user", user)), max_tokens, seed, reply)


def run(task: str, *, model: RecordedModel = MODEL) -> RunResult:
    topology = Single(Agent("executor", model=model.name))
    spec = RunSpec("r", topology, Task(task, "9", "numeric"), Budget(usd=1, tokens=1_000), seed=0)
    return run_virtual([spec], {model.name: model}.__getitem__)[0]


async def test_a_report_is_the_recorded_answer_with_the_whole_text_as_its_work() -> None:
    reply = await MODEL.complete(request())

    assert parse_reply("report", reply.text, "") == Report("9", "Ducks lay 16.\nA: 9")


async def test_free_text_is_what_was_recorded() -> None:
    assert await MODEL.complete(request(reply="")) == ChatReply("Ducks lay 16.\nA: 9", Usage(230, 7))


async def test_usage_is_as_declared_and_the_bound_is_exact() -> None:
    for task, (_, _, usage) in RECORDS.items():
        assert MODEL.bound(request(task)) == usage == (await MODEL.complete(request(task))).usage


async def test_nothing_beside_the_task_changes_the_answer() -> None:
    mail = mail_block(Report("12", "no, 12", sender="peer"), 100)

    first = await MODEL.complete(request())

    assert first == await MODEL.complete(request())
    assert first == await MODEL.complete(request(EGGS, mail, seed=8, max_tokens=500))


@pytest.mark.parametrize("task", [EGGS, TAGS])
async def test_a_task_is_found_whatever_stands_in_it(task: str) -> None:
    assert (await MODEL.complete(request(task, reply=""))).text == RECORDS[task].text


async def test_a_task_quoted_in_a_mail_is_not_looked_up() -> None:
    quoting = mail_block(Report("9", block("task", TAGS), sender="peer"), 100)

    assert (await MODEL.complete(request(EGGS, quoting, reply=""))).text == RECORDS[EGGS].text


async def test_a_miss_names_the_model_and_the_first_words_of_the_task() -> None:
    with pytest.raises(BadModelReply, match=r"recorded/x.*'How many eggs are left\? Answer with ONE number\.'"):
        await MODEL.complete(request(EGGS.replace("one", "ONE")))


async def test_the_words_of_a_miss_are_few() -> None:
    with pytest.raises(BadModelReply) as caught:
        await MODEL.complete(request("x" * 10_000))

    assert "'" + "x" * 60 + "'" in str(caught.value)


@pytest.mark.parametrize("reply", ["plan", "verdict", "bid", "vote"])
async def test_it_cannot_plan_or_judge_and_says_so(reply: str) -> None:
    with pytest.raises(BadModelReply, match=f"asked for a {reply}.*cannot plan"):
        await MODEL.complete(request(reply=reply))


async def test_it_cannot_do_a_part_and_says_so() -> None:
    with pytest.raises(BadModelReply, match="asked for a part"):
        await MODEL.complete(request(EGGS, part_block(Part("count the ducks"))))


async def test_a_prompt_without_a_task_is_no_request_for_it() -> None:
    with pytest.raises(BadModelReply, match="no <task> block"):
        await MODEL.complete(ChatRequest((ChatMessage("user", EGGS),), 7, reply="report"))


@pytest.mark.parametrize("wrong", [request("Another?"), request(reply="plan"), request(EGGS, part_block(Part("x")))])
def test_what_it_cannot_answer_reserves_nothing(wrong: ChatRequest) -> None:
    assert MODEL.bound(wrong) == Usage(0, 0)


def test_its_text_cannot_be_shortened() -> None:
    """With `shrinkable`, admission would offer it less than its output before it refuses."""
    assert (MODEL.virtual, MODEL.shrinkable) == (True, False)


async def test_a_limit_below_the_recorded_output_is_refused() -> None:
    with pytest.raises(ModelRefused, match="max_tokens 6 is below the recorded 7"):
        await MODEL.complete(request(max_tokens=6))


def test_a_run_is_charged_the_declared_usage_at_the_declared_price() -> None:
    result = run(EGGS)

    assert (result.status, result.answer, result.correct, result.deterministic) == ("completed", "9", True, "D1")
    assert (result.spend.total.tokens, result.spend.total.pico_usd) == (237, PRICE.cost(Usage(230, 7)))
    assert not result.overspent


def test_a_miss_fails_the_run_and_spends_no_tokens() -> None:
    result = run("Another task?")

    assert result.status == "failed"
    assert "no recorded answer for the task 'Another task?'" in result.reason
    assert (result.spend.total.tokens, result.spend.total.pico_usd) == (0, 0)


async def test_a_copy_from_another_process_answers_alike() -> None:
    copy = pickle.loads(pickle.dumps(MODEL))

    assert copy.settings == MODEL.settings
    assert await copy.complete(request()) == await MODEL.complete(request())


def test_a_pickled_model_holds_its_answers_once_and_no_task() -> None:
    long = {f"{i}" + "q" * 5_000: RecordedAnswer("t" * 300, "9", Usage(230, 7)) for i in range(100)}

    assert len(pickle.dumps(RecordedModel("recorded/long", long, price=PRICE))) < 100 * 360


@pytest.mark.parametrize(
    ("records", "price"),
    [
        (RECORDS | {EGGS: RECORDS[EGGS]._replace(text="Ducks lay 17.\nA: 9")}, PRICE),
        (RECORDS | {EGGS: RECORDS[EGGS]._replace(answer="10")}, PRICE),
        (RECORDS | {EGGS: RECORDS[EGGS]._replace(usage=Usage(230, 8))}, PRICE),
        (RECORDS | {"Another?": RECORDS[EGGS]}, PRICE),
        (RECORDS, None),
    ],
)
def test_models_that_replay_differently_have_different_addresses(
    records: Mapping[str, RecordedAnswer], price: Price | None
) -> None:
    assert RecordedModel("recorded/x", records, price=price).settings != MODEL.settings
    assert RecordedModel("recorded/x", dict(reversed(RECORDS.items())), price=PRICE).settings == MODEL.settings


def test_a_model_without_records_is_refused() -> None:
    with pytest.raises(ConfigError, match="recorded/none"):
        RecordedModel("recorded/none", {}, price=None)
