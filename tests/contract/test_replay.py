"""A live run of fifty agents, recorded once and replayed: in this process, on one host and on two, in any order, at no cost."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from benchmarks.tasks import companies
from policies import FixedPacing
from runtime import Agent, Budget, RunResult, RunSpec, Runtime, Task
from runtime.bank.grants import ACCOUNT, NO_CAPS, Limits
from runtime.errors import ConfigError, ReplayDiverged
from runtime.ids import draw
from runtime.messages import Part, Plan, Report, Verdict, reply_json
from runtime.models.base import ChatReply, ChatRequest, prompt_tokens
from runtime.models.catalog import Catalog
from runtime.modes import mode_of
from runtime.recording import Recording, canonical_bytes
from runtime.result import RunResult as Result
from runtime.trampoline import nap_s
from runtime.usage import Price, Usage
from topologies import Chain, Hybrid, Independent, Star, Topology, Tree

WORK = 48
QUESTION = Task("What is six times seven, in forty-eight parts?", "42")
TIGHT = Budget(tokens=20_000, usd=1, seconds=60)


@dataclass
class Shuffled:
    """A live model that anybody could be billed for. Its latencies and the lengths of its replies no seed decides."""

    order: int
    name: str = "shuffled"
    virtual: bool = False
    shrinkable: bool = True
    naps: bool = True
    window_tokens: int = 100_000
    price: Price | None = field(default_factory=lambda: Price.per_million("1.23", "4.56"))
    billed: int = 0
    """Pico-dollars."""

    def bound(self, request: ChatRequest) -> Usage:
        return Usage(prompt_tokens(request), request.max_tokens)

    async def complete(self, request: ChatRequest) -> ChatReply:
        mood = draw(self.order, request.messages[-1].content, request.messages[0].content)
        await nap_s(0.03 * mood)
        used = min(request.max_tokens, 100 + int(mood * 600))
        usage = Usage(prompt_tokens(request), used)
        assert self.price is not None
        self.billed += self.price.cost(usage)
        if request.reply == "plan":
            return ChatReply(reply_json(Plan(tuple(Part(f"part {i}") for i in range(WORK)))), usage)
        said = Verdict("accept", "42") if request.reply == "verdict" else Report("42", f"in mood {mood}")
        return ChatReply(reply_json(said), usage)


def fifty(model: str = "shuffled", words: str | None = None, odd: int = 30) -> Topology:
    """Forty-eight executors and two who lead them; each asks for more than an even share. One has words of its own."""
    return Star(
        planner=Agent("planner", effort_tokens=900),
        executors=[Agent("executor", effort_tokens=700, prompt=words if i == odd else None) for i in range(WORK)],
        verifier=Agent("verifier", effort_tokens=600),
        model=model,
    )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recording, RunResult, int]:
    """The file, what is in it, the live result, and the provider's bill."""
    path = tmp_path_factory.mktemp("recorded") / "fifty.jsonl"
    model = Shuffled(order=1)

    async def live() -> RunResult:
        async with Runtime(models={"shuffled": model}, record=path) as runtime:
            return await runtime.run(fifty(words="You carry out work."), QUESTION, budget=TIGHT, seed=3, run_id="fifty")

    result = anyio.run(live)
    return path, Recording.load(path), result, model.billed


def spec_of(recording: Recording, topology: Topology | None = None, run_id: str = "fifty") -> RunSpec:
    mode = mode_of(Catalog(), Limits(ACCOUNT, True, NO_CAPS), None, recording, stored=False)
    return mode.spec(RunSpec(run_id, topology or fifty(words="You carry out work."), QUESTION, TIGHT, 3))


def test_the_recorded_run_meets_its_limits(recorded: Any) -> None:
    """Else its replay would say little."""
    _, recording, live, billed = recorded

    assert (live.status, live.answer, live.correct, live.virtual) == ("completed", "42", True, False)
    assert live.metrics["shrunk"] >= 1
    assert live.metrics["refusals"] >= 5
    assert live.spend.total.pico_usd == billed
    began = [ask.tries[0].row.began_s for ask in recording.runs["fifty"].asks if ask.tries and ask.kind == "work"]
    assert max(began) - sorted(began)[2] > 0.005, "some waited for what others held"


def test_a_replay_in_this_process_is_equal_to_the_last_figure(recorded: Any) -> None:
    path, recording, live, billed = recorded

    async def again() -> RunResult:
        async with Runtime(replay=path) as runtime:
            return await runtime.run(fifty(words="You carry out work."), QUESTION, budget=TIGHT, seed=3)

    result = anyio.run(again)

    assert recording.differences(result) == []
    assert canonical_bytes(result) == canonical_bytes(live)
    assert (result.run_id, result.virtual, result.deterministic) == ("fifty", True, "D1")
    assert result.spend.total.pico_usd == billed
    assert result.spend.total.virtual, "nobody is billed"


@pytest.mark.ray
def test_a_replay_is_equal_on_one_host_and_on_two_among_other_runs(recorded: Any, ray_cluster: Any) -> None:
    _, recording, live, _ = recorded
    alone = [
        Result.from_json(body)
        for host in (0, 1)
        for body in ray_cluster.call(ray_cluster.runtime._on_host, host, "run_virtual", [spec_of(recording)])
    ]

    others = [
        ray_cluster.runtime.spec(f"beside-{i}", Star(3, model="sim/small"), task, Budget(tokens=20_000), i)
        for i, task in enumerate(companies.generate(40, seed=2))
    ]
    both = [*others[:25], spec_of(recording), *others[25:]]
    (among,) = [result for spec, result in ray_cluster.map(both) if spec.run_id == "fifty"]

    assert {canonical_bytes(result) for result in (*alone, among)} == {canonical_bytes(live)}


def test_one_changed_word_of_a_prompt_is_named(recorded: Any) -> None:
    _, recording, _, _ = recorded

    async def again() -> None:
        async with Runtime(replay=recording) as runtime:
            await runtime.run(fifty(words="You carry on work."), QUESTION, budget=TIGHT, seed=3)

    with pytest.raises(ReplayDiverged) as caught:
        anyio.run(again)

    assert (caught.value.run_id, caught.value.seat, caught.value.step) == ("fifty", "executor[30]", 0)
    assert str(caught.value) == (
        'run fifty is not the recorded one: executor[30], step 0: message 1 of 2 (system) differs at character 12: recorded "You '
        'carry out work.", now "You carry on work."'
    )


def test_of_several_changes_the_first_in_the_run_is_named(recorded: Any) -> None:
    """Executor 7 and the verifier were told other things; so the run went another way first at executor 7."""
    _, recording, _, _ = recorded
    other = fifty(words="You carry out work.")
    other._seats["executor[7]"] = Agent("executor", model="shuffled", effort_tokens=700, prompt="New.")
    other._seats["executor[9]"] = Agent("executor", model="shuffled", effort_tokens=700, prompt="Newer.")
    other._seats["verifier"] = Agent("verifier", model="shuffled", effort_tokens=600, prompt="New, too.")

    async def again() -> None:
        async with Runtime(replay=recording) as runtime:
            await runtime.run(other, QUESTION, budget=TIGHT, seed=3)

    for _ in range(3):
        with pytest.raises(ReplayDiverged) as caught:
            anyio.run(again)
        assert (caught.value.seat, caught.value.step) == ("executor[7]", 0)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"topology": Star(3, model="shuffled")}, "name: recorded Star(48), now Star(3); seat executor[3] is missing"),
        ({"topology": fifty("sim/small")}, "seat planner: models recorded ['shuffled'], now ['sim/small']"),
        ({"task": Task("What is six times eight?", "42")}, 'at character 19: recorded "What is six times seven'),
        ({"task": Task(QUESTION.prompt, "43")}, "has another answer, check or family"),
        (
            {"budget": Budget(tokens=20_001, usd=1, seconds=60)},
            "the budget: recorded 20,000 tokens, $1, 60 s, now 20,001",
        ),
        ({"seed": 4}, "the seed: recorded 3, now 4"),
    ],
    ids=["team", "model", "task", "answer", "budget", "seed"],
)
def test_other_ingredients_are_told(recorded: Any, other: dict[str, Any], words: str) -> None:
    _, recording, _, _ = recorded
    made_of = {"topology": fifty(), "task": QUESTION, "budget": TIGHT, "seed": 3} | other
    mode = mode_of(Catalog(), Limits(ACCOUNT, True, NO_CAPS), None, recording, stored=False)

    for run_id, begin in (
        ("fifty", "run fifty was recorded with other ingredients: "),
        ("", "no recorded run has these"),
    ):
        with pytest.raises(ConfigError) as caught:
            mode.spec(RunSpec(run_id, **made_of))
        assert str(caught.value).startswith(begin)
        assert words in str(caught.value)


def test_a_run_over_http_is_replayed_without_its_endpoint(
    endpoint: str, models: dict[str, Any], tmp_path: Path
) -> None:
    """Fifty agents at `ostrom serve`, each call 1,000 tokens, for whom twenty calls are to be had."""
    path, team, budget = tmp_path / "far.jsonl", Independent(50, model="far/m"), Budget(tokens=20_000)

    async def run(**mode: Any) -> RunResult:
        async with Runtime(models={"far/m": models["far/m"]} if "record" in mode else {}, **mode) as runtime:
            return await runtime.run(team, QUESTION, budget=budget, seed=5)

    live = anyio.run(lambda: run(record=path))
    again = anyio.run(lambda: run(replay=path))

    assert (live.virtual, live.spend.total.tokens, live.metrics["refusals"]) == (False, 20_000, 30)
    assert canonical_bytes(again) == canonical_bytes(live)
    assert again.spend.total.virtual


PROGRAM = """
import sys

import anyio
from runtime import Budget, Runtime, Task
from runtime.recording import Recording, canonical_bytes
from topologies import Independent

async def main():
    recording = Recording.load(sys.argv[1])
    async with Runtime(replay=recording) as runtime:
        for seed in map(int, sys.argv[2:]):
            result = await runtime.run(Independent(9, model="shuffled"), Task("?"), budget=Budget(tokens=3000), seed=seed)
            assert recording.differences(result) == []
            print(seed, canonical_bytes(result).hex())

anyio.run(main)
"""


def test_a_replay_in_another_process_and_order_is_equal(tmp_path: Path) -> None:
    path, model = tmp_path / "three.jsonl", Shuffled(order=2)

    async def live() -> dict[int, str]:
        async with Runtime(models={"shuffled": model}, record=path) as runtime:
            team, budget = Independent(9, model="shuffled"), Budget(tokens=3000)
            return {
                seed: canonical_bytes(await runtime.run(team, Task("?"), budget=budget, seed=seed)).hex()
                for seed in (1, 2, 3)
            }

    results = anyio.run(live)
    (tmp_path / "program.py").write_text(PROGRAM, "utf-8")

    for seeds in (["3", "1", "2"], ["2"]):
        command = [sys.executable, "program.py", path.name, *seeds]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [f"{seed} {results[int(seed)]}" for seed in seeds]


def test_runs_of_the_same_ingredients_are_replayed_in_turn(tmp_path: Path) -> None:
    path = tmp_path / "twice.jsonl"

    async def run(asking: Callable[[Any], Any], **mode: Any) -> list[RunResult]:
        async with Runtime(models={"shuffled": Shuffled(order=3)}, **mode) as runtime:
            return [await asking(runtime) for _ in range(2)]

    def ask(runtime: Any) -> Any:
        return runtime.run(Independent(3, model="shuffled"), Task("?"), budget=Budget(tokens=900), seed=1)

    live = anyio.run(lambda: run(ask, record=path))
    again = anyio.run(lambda: run(ask, replay=path))

    assert [r.run_id for r in again] == [r.run_id for r in live] == ["run-1", "run-2"]
    assert [*map(canonical_bytes, again)] == [*map(canonical_bytes, live)]


def test_pacing_decides_nothing_in_a_replay(recorded: Any) -> None:
    """What a call may write was decided then; a policy that would decide otherwise now changes nothing."""
    _, recording, live, _ = recorded
    other = fifty(words="You carry out work.")
    other.pacing = FixedPacing(64)

    async def again() -> RunResult:
        async with Runtime(replay=recording) as runtime:
            return await runtime.run(other, QUESTION, budget=TIGHT, seed=3)

    assert canonical_bytes(anyio.run(again)) == canonical_bytes(live)


def test_near_its_budget_a_run_asks_for_the_same_summaries_again(tmp_path: Path) -> None:
    """Whether there is room for one hangs on a share, from which the price of calls is kept back that were never made."""
    [task] = companies.generate(1, seed=5)
    specs = []
    for tokens in range(4000, 15_000, 500):
        for make in (lambda: Star(3), lambda: Hybrid(3), lambda: Chain(3), lambda: Tree(2, 1)):
            team: Topology = make().with_model("sim/small")
            team.summarise, team.message_tokens = True, 16
            specs.append((team, Budget(tokens=tokens)))

    async def run(**mode: Any) -> list[RunResult]:
        async with Runtime(**mode) as runtime:
            return [await runtime.run(team, task, budget=budget, seed=7) for team, budget in specs]

    live = anyio.run(lambda: run(record=tmp_path / "near.jsonl"))
    again = anyio.run(lambda: run(replay=tmp_path / "near.jsonl"))

    assert [*map(canonical_bytes, again)] == [*map(canonical_bytes, live)]
    asked = [sum(row.kind == "summary" for row in result.attempts) for result in live]
    assert min(asked) == 0 < max(asked), "there is room in some of them"
