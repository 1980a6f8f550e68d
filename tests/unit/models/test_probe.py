"""Which limit an endpoint obeys: asked by ordinary attempts, once, and said clearly where it obeys none."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from runtime.budget import Budget
from runtime.errors import BadModelReply, BudgetExceeded, ConfigError, ModelError, ModelRateLimited, ModelRefused
from runtime.models.base import ChatModel, ChatReply, ChatRequest
from runtime.models.openai import OpenAIModel
from runtime.models.probe import HELD_TOKENS, PROBE, PROBE_TOKENS, Probe, obeys, prove
from runtime.models.spec import ModelSpec
from runtime.preflight import RunSpec, prepare
from runtime.task import Task
from runtime.usage import Price, Usage
from topologies import Single

pytestmark = pytest.mark.anyio

CUT = ChatReply("one, two", Usage(30, 16), "length")
WHOLE = ChatReply("one, two, three, …", Usage(30, 300))
NO_SUCH_FIELD = ModelRefused("m", 400, "unknown field")


def model(**fields: Any) -> OpenAIModel:
    priced: dict[str, Any] = {"input_usd": 1, "output_usd": 2, "window_tokens": 4_096}
    return OpenAIModel("m", ModelSpec(endpoint="http://127.0.0.1:9/v1", model="m", key_env="", **(priced | fields)))


class Sender:
    """Answers each attempt with the next of these."""

    def __init__(self, *ends: ChatReply | ModelError | BudgetExceeded) -> None:
        self.ends: Sequence[Any] = ends
        self.probes: list[Probe] = []

    async def __call__(self, probe: ChatModel, request: ChatRequest) -> ChatReply:
        assert isinstance(probe, Probe)
        assert request is PROBE
        await anyio.lowlevel.checkpoint()
        self.probes.append(probe)
        end = self.ends[len(self.probes) - 1]
        if isinstance(end, Exception):
            raise end
        return end

    @property
    def fields(self) -> list[str]:
        return [probe.field for probe in self.probes]


@pytest.mark.parametrize(
    ("outcome", "obeyed"),
    [
        (CUT, True),
        (ChatReply("", Usage(30, 16), "length"), True),
        (ChatReply("one", None, "length"), True),
        (ChatReply("one", Usage(30, 17), "length"), False),
        (ChatReply("one", Usage(30, 16), "stop"), False),
        (WHOLE, False),
        (BadModelReply("m", "refused with 400 after work: Could not finish the message because max_tokens …"), True),
        (BadModelReply("m", "ended by content_filter"), False),
        (NO_SUCH_FIELD, False),
    ],
)
def test_a_limit_is_obeyed_where_the_reply_was_cut_at_it(outcome: ChatReply | ModelError, obeyed: bool) -> None:
    assert obeys(outcome) == obeyed


@pytest.mark.parametrize(
    ("ends", "field"),
    [
        ((CUT,), "max_tokens"),
        ((WHOLE, CUT), "max_completion_tokens"),
        ((NO_SUCH_FIELD, CUT), "max_completion_tokens"),
        ((ModelRefused("m", 422, "extra"), CUT), "max_completion_tokens"),
    ],
)
async def test_the_field_that_is_obeyed_is_used_from_then_on(ends: Any, field: str) -> None:
    far, send = model(), Sender(*ends)
    assert far.unproved

    await prove(far, send)

    assert (far.unproved, far.spec.limit_field, far.spec.sent_limit) == (False, field, field)
    assert send.fields == ["max_tokens", "max_completion_tokens"][: len(ends)]
    copy = far.__reduce__()[0](*far.__reduce__()[1])
    assert copy.spec.limit_field == field, "a copy that is shipped knows it, too"
    await prove(far, Sender())


@pytest.mark.parametrize("ends", [(WHOLE, WHOLE), (NO_SUCH_FIELD, WHOLE), (WHOLE, NO_SUCH_FIELD)])
async def test_an_endpoint_that_obeys_none_is_refused_with_the_cures(ends: Any) -> None:
    far = model()

    with pytest.raises(ConfigError, match="obeys neither") as caught:
        await prove(far, Sender(*ends))

    assert all(cure in str(caught.value) for cure in ("fixed_usage", "window_tokens", 'limit_field = "window"'))
    assert far.unproved


@pytest.mark.parametrize(
    "ends",
    [
        (BudgetExceeded("run", "tokens", 9, 5),),
        (ModelRateLimited("m", 3.0),),
        (ModelRefused("m", 401, "no key"),),
        (BadModelReply("m", "ended by content_filter"),),
        (WHOLE, ModelRateLimited("m", 3.0)),
        (NO_SUCH_FIELD, NO_SUCH_FIELD),
    ],
)
async def test_what_keeps_the_probe_from_an_answer_is_raised_and_nothing_is_concluded(ends: Any) -> None:
    far = model()

    with pytest.raises(type(ends[-1])) as caught:
        await prove(far, Sender(*ends))

    assert caught.value.args == ends[-1].args
    assert far.unproved


async def test_runs_that_begin_together_probe_once() -> None:
    far, send = model(), Sender(CUT)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(prove, far, send)

    assert send.fields == ["max_tokens"]


def test_a_probe_is_a_model_whose_hold_covers_an_endpoint_that_ignores_the_limit() -> None:
    probe = model().probe("max_tokens")

    assert (probe.name, probe.virtual, probe.shrinkable, probe.window_tokens) == ("m", False, False, 4_096)
    assert probe.price == Price(1_000_000, 2_000_000)
    assert probe.bound(PROBE).output_tokens == HELD_TOKENS
    assert PROBE.max_tokens == PROBE_TOKENS
    assert model(window_tokens=100).probe("max_tokens").bound(PROBE).output_tokens == 100


@pytest.mark.parametrize("fields", [{"limit_field": "max_tokens"}, {"fixed_usage": (1, 1)}, {"limit_field": "window"}])
async def test_what_is_declared_is_not_probed(fields: dict[str, Any]) -> None:
    await prove(model(**fields), Sender())


def test_an_endpoint_without_a_limit_holds_the_window_and_cannot_be_shrunk() -> None:
    far = model(limit_field="window")

    assert far.bound(PROBE).output_tokens == 4_096
    assert not far.shrinkable


@pytest.mark.parametrize("held_tokens", [HELD_TOKENS, 3_000])
def test_a_budget_that_cannot_hold_the_question_is_refused_before_money_moves(
    held_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the question holds has come back when the call is made that needs its answer."""
    monkeypatch.setattr("runtime.models.probe.HELD_TOKENS", held_tokens)

    def passes(of: OpenAIModel, budget: Budget) -> bool:
        try:
            prepare(RunSpec("run", Single(model="m"), Task("How many?"), budget, 0), {"m": of}.__getitem__)
        except ConfigError:
            return False
        return True

    def least(of: OpenAIModel) -> int:
        return bisect_left(range(10_000), True, key=lambda cap: passes(of, Budget(tokens=cap)))

    unproved, proved = model(), model(limit_field="max_tokens")
    assert least(unproved) == max(least(proved), unproved.probe("max_tokens").bound(PROBE).tokens)
    assert [passes(unproved, Budget(calls=1)), passes(unproved, Budget(calls=2))] == [False, True]
    assert passes(proved, Budget(calls=1))
