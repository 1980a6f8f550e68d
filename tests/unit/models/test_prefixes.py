"""The prefix cache of simulated models: what a seat's next prompt shares with its last, and what that saves."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.tasks import companies
from runtime.budget import Budget
from runtime.host import run_virtual
from runtime.models.base import ChatMessage, ChatReply, ChatRequest, ToolSpec, prompt_tokens, request_digest
from runtime.models.prefixes import BLOCK_TOKENS, Prefixes, shared_tokens
from runtime.models.scripted import ScriptedModel
from runtime.models.simulated import SimulatedModel, small
from runtime.preflight import RunSpec
from runtime.result import RunResult
from runtime.usage import Price, Usage
from topologies import Mesh, Topology

SOLVERS = (companies.SOLVER,)
SMALL = small(SOLVERS)


def asked(*texts: str, tools: tuple[ToolSpec, ...] = ()) -> ChatRequest:
    """A conversation: system, user, assistant, user, and so on."""
    roles = ("system", "user", *("assistant", "user") * len(texts))
    said = (ChatMessage(role, text) for role, text in zip(roles, texts, strict=False))  # type: ignore[arg-type]
    return ChatRequest(tuple(said), 100, tools=tools)


@pytest.mark.parametrize(
    ("before", "now", "shared"),
    [
        # Four bytes a token and four more for a message: 40 bytes are 14 tokens, and two such messages 28.
        (asked("s" * 40, "u" * 40), asked("s" * 40, "u" * 40, "a" * 40, "v" * 40), 16),
        (asked("s" * 40, "u" * 60), asked("s" * 40, "u" * 60, "a"), 32),
        # Half of the second message: 14 + 4 + 14.
        (asked("s" * 40, "u" * 56 + "x"), asked("s" * 40, "u" * 56 + "y" * 40), 32),
        (asked("s" * 40, "u" * 55 + "x"), asked("s" * 40, "u" * 55 + "y" * 40), 32),
        (asked("s" * 40, "u" * 52 + "x"), asked("s" * 40, "u" * 52 + "y" * 40), 16),
        # Bytes count, not characters.
        (asked("s" * 40, "é" * 28 + "x"), asked("s" * 40, "é" * 28 + "y" * 40), 32),
        (asked("s" * 400), asked("t" + "s" * 400), 0),
        # The last token is always read anew: 4 + 12 tokens are a whole block, and yet none of it is shared.
        (asked("s" * 48), asked("s" * 48), 0),
        (asked("s" * 52), asked("s" * 52), 16),
    ],
)
def test_whole_blocks_of_the_common_beginning_are_shared(before: ChatRequest, now: ChatRequest, shared: int) -> None:
    assert shared_tokens(before, now) == shared


def test_tools_stand_before_everything() -> None:
    tool, other = ToolSpec("look", "d" * 64, {}), ToolSpec("find", "d" * 64, {})
    text = "s" * 64

    assert shared_tokens(asked(text, tools=(tool,)), asked(text, "u", tools=(tool,))) == 32
    assert shared_tokens(asked(text, tools=(tool,)), asked(text, "u", tools=(other,))) == 0


words = st.text(alphabet="aé", max_size=80)


@given(st.lists(words, min_size=1, max_size=5), st.lists(words, min_size=1, max_size=5), words)
def test_a_share_is_whole_blocks_less_than_the_prompt_and_grows_with_what_is_alike(
    old: list[str], new: list[str], opening: str
) -> None:
    before, now = asked(*old), asked(*new)
    shared = shared_tokens(before, now)

    assert shared % BLOCK_TOKENS == 0
    assert 0 <= shared < prompt_tokens(now)
    assert shared_tokens(asked(opening, *old), asked(opening, *new)) >= shared


def test_a_seat_remembers_its_own_prompts_by_model_and_by_their_opening() -> None:
    prefixes = Prefixes()
    work, bid, other = asked("w" * 100, "t" * 100), asked("b" * 100, "t" * 100), replace(SMALL.noise, lineage="other")
    another = SimulatedModel(
        "other", SOLVERS, other, price=None, window_tokens=999, tokens_per_s=9, prefill_tokens_per_s=9
    )

    def warm(seat: str, request: ChatRequest, model: SimulatedModel = SMALL) -> int:
        return prefixes.told(seat, model, request).warm_tokens

    assert [warm("a", work), warm("a", bid), warm("b", work), warm("a", work, another)] == [0, 0, 0, 0]
    assert [warm("a", work), warm("a", bid), warm("b", work), warm("a", work, another)] == [48, 48, 48, 48]


def test_a_model_without_a_cache_is_told_nothing() -> None:
    prefixes, model, request = Prefixes(), ScriptedModel(["x"], output_tokens=1), asked("s" * 100)

    assert prefixes.told("a", model, request) is prefixes.told("a", model, request) is request


def test_what_is_warm_is_no_part_of_the_work() -> None:
    request = asked("s")

    assert replace(request, warm_tokens=16) == request
    assert request_digest(replace(request, warm_tokens=16)) == request_digest(request)


@dataclass
class Watched:
    """A simulated model with a price, and the usage of its calls in their order."""

    cached_usd: str | None
    usages: list[Usage] = field(default_factory=list)

    def run(self, topology: Topology) -> RunResult:
        usages = self.usages

        class Noted(SimulatedModel):
            async def complete(self, request: ChatRequest) -> ChatReply:
                reply = await super().complete(request)
                assert reply.usage is not None
                usages.append(reply.usage)
                return reply

        model = Noted(
            "sim/test",
            SOLVERS,
            SMALL.noise,
            price=Price.per_million("1", "4", self.cached_usd),
            window_tokens=32_768,
            tokens_per_s=100,
            prefill_tokens_per_s=1_000,
        )
        (task,) = companies.generate(1, seed=3)
        (result,) = run_virtual([RunSpec("r", topology, task, Budget(usd=1, calls=20), 0)], lambda _: model)
        return result


def test_a_seat_that_is_asked_again_has_its_task_in_the_cache_and_pays_the_cached_price() -> None:
    mesh = Mesh(3, rounds=2, model="sim/test")
    cached, plain, again = Watched("0.1"), Watched(None), Watched("0.1")
    results = [watched.run(mesh) for watched in (cached, plain, again)]
    told = [usage.cached_tokens for usage in cached.usages]
    saved = results[1].spend.total.pico_usd - results[0].spend.total.pico_usd

    assert told[:3] == [0, 0, 0]
    assert len(told) == 6
    assert all(tokens > 100 for tokens in told[3:])
    assert [result.answer for result in results] == [results[0].answer] * 3
    assert saved == sum(told) * 900_000
    assert (again.usages, results[2].spend) == (cached.usages, results[0].spend)
