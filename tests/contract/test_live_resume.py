"""A live run that is killed from inside and taken up again: nothing paid for is asked again, and the book is not behind.

Each life is a process of its own. The provider is the independent witness: it writes every answer it gave, and bills for,
into a file that no life reads.
"""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
import json, sys
from pathlib import Path

import anyio
from runtime import Agent, Budget, Runtime, Task
from runtime.errors import OrchestrationError
from runtime.messages import Part, Plan, Report, Verdict
from runtime.models.base import ChatReply
from runtime.models.scripted import ScriptedModel
from runtime.messages import reply_json
from topologies import Chain, Star

folder, shape, tokens, question = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]


def answer(request):
    with (folder / "answered").open("a") as file:
        file.write(request.reply + "\\n")
    if request.reply == "plan":
        return Plan((Part("one half"), Part("the other half")))
    if request.reply == "verdict":
        return Verdict("accept", "42")
    if shape == "unknown":
        return ChatReply('{"answer": "42"}', None)
    return Report("42")


async def main():
    model = ScriptedModel(answer, input_tokens=60, output_tokens=40, virtual=False, usd="0.5")
    topology = Star(2, model="m") if shape == "star" else Chain([Agent("executor")] * 2, model="m")
    async with Runtime(models={"m": model}, out=folder / "store") as rt:
        result = await rt.run(topology, Task(question, answer="42"), budget=Budget(tokens=tokens, usd=90), run_id="r")
    rows = [[a.seat, a.step, a.try_, a.state, a.model, a.kind] for a in result.attempts]
    total = result.spend.total
    print(json.dumps([result.status, result.reason, result.correct, model.served, total.tokens, total.pico_usd, rows]))


try:
    anyio.run(main)
except OrchestrationError as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


class Lives:
    """The lives of one run."""

    def __init__(self, folder: Path, shape: str, tokens: int = 1000) -> None:
        self.folder, self.shape, self.tokens = folder, shape, tokens
        (folder / "program.py").write_text(PROGRAM, "utf-8")

    def answered(self) -> Counter[str]:
        file = self.folder / "answered"
        return Counter(file.read_text("utf-8").split() if file.exists() else [])

    def killed(self, where: str) -> None:
        done = self._live(where)
        assert (done.returncode, done.stdout) == (-signal.SIGKILL, ""), done.stderr

    def ended(self, question: str = "How many?") -> list[Any]:
        done = self._live("", question)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    def _live(self, crash: str, question: str = "How many?") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "program.py", str(self.folder), self.shape, str(self.tokens), question],
            cwd=self.folder,
            env={**os.environ, "OSTROM_CRASH": crash},
            capture_output=True,
            text=True,
            check=False,
        )


SEATS = ["planner", "executor[0]", "executor[1]", "verifier"]


@pytest.mark.parametrize("nth", [1, 2, 4])
@pytest.mark.parametrize("where", ["after-reserve", "after-sent", "after-reply"])
def test_a_killed_run_asks_only_for_what_was_not_answered(tmp_path: Path, where: str, nth: int) -> None:
    """A chain of four calls, killed at its n-th; each holds and uses 100 tokens and half a dollar."""
    lives = Lives(tmp_path, "chain")
    lives.killed(f"{where}:{nth}")
    lost = where != "after-reserve"

    status, reason, correct, served, tokens, pico, rows = lives.ended()

    assert (status, reason, correct) == ("completed", "", True)
    assert served == 4 - (nth - 1), "settled calls are answered from the journal"
    assert (tokens, pico) == (400 + 100 * lost, (4 + lost) * 5 * 10**11)
    expected = [[seat, 0, 0, "settled", "m", "work"] for seat in SEATS]
    if lost:
        expected[nth - 1][3] = "charged_max"
        expected.insert(nth, [SEATS[nth - 1], 0, 1, "settled", "m", "work"])
    assert sorted(rows) == sorted(expected)
    assert sum(lives.answered().values()) == 4 + (where == "after-reply"), "the provider's own count"


def test_every_lost_call_is_charged_however_often_the_run_is_killed(tmp_path: Path) -> None:
    lives = Lives(tmp_path, "chain")
    lives.killed("after-sent:2")
    lives.killed("after-reply:1")
    lives.killed("after-sent:2")

    status, _, _, served, tokens, _, rows = lives.ended()

    assert (status, served, tokens) == ("completed", 2, 700)
    tries = [(seat, try_, state) for seat, _, try_, state, *_ in sorted(rows) if seat.startswith("executor")]
    assert tries == [
        ("executor[0]", 0, "charged_max"),
        ("executor[0]", 1, "charged_max"),
        ("executor[0]", 2, "settled"),
        ("executor[1]", 0, "charged_max"),
        ("executor[1]", 1, "settled"),
    ]


def test_what_a_crash_cost_counts_against_the_budget(tmp_path: Path) -> None:
    """Four calls were to be had; one is lost, so an executor goes without, and the verifier has what is kept for it."""
    lives = Lives(tmp_path, "chain", tokens=400)
    lives.killed("after-sent:2")

    status, reason, _, _, tokens, _, rows = lives.ended()

    assert (status, reason, tokens) == ("completed", "", 400)
    assert sorted(row[3] for row in rows) == ["charged_max", "settled", "settled", "settled"]


def test_a_reply_whose_price_is_unknown_is_answered_from_the_journal_too(tmp_path: Path) -> None:
    """It was charged at its maximum, and what came after it was built on it."""
    lives = Lives(tmp_path, "unknown")
    lives.killed("after-sent:4")

    status, reason, _, served, tokens, _, _ = lives.ended()

    assert (status, reason, served, tokens) == ("completed", "", 1, 500)
    assert lives.answered() == {"plan": 1, "report": 2, "verdict": 1}


@pytest.mark.parametrize("nth", [2, 5])
def test_calls_side_by_side_are_charged_or_answered_whenever_the_store_was_cut(tmp_path: Path, nth: int) -> None:
    """Where the kill falls among the two executors is not fixed; that the book is not behind the provider is."""
    lives = Lives(tmp_path, "star")
    lives.killed(f"store-after-commit:{nth}")
    answered = sum(lives.answered().values())

    status, _, correct, served, tokens, _, rows = lives.ended()

    assert (status, correct) == ("completed", True)
    assert sum(lives.answered().values()) == answered + served
    assert 100 * (answered + served) <= tokens == 100 * len(rows) <= 1000
    assert Counter(row[3] for row in rows)["settled"] == 4


def test_a_finished_run_is_given_back_without_a_call(tmp_path: Path) -> None:
    lives = Lives(tmp_path, "chain")
    first = lives.ended()

    again = lives.ended()

    assert (first[3], again[3]) == (4, 0)
    assert first[4:] == again[4:]


def test_another_task_under_the_same_name_is_refused_before_anything_is_spent(tmp_path: Path) -> None:
    """And the run that was interrupted can still be taken up."""
    lives = Lives(tmp_path, "chain")
    lives.killed("after-sent:1")

    kind, _ = lives.ended("Another question?")

    assert kind == "StoreError"
    assert not lives.answered()
    assert lives.ended()[0] == "completed"
