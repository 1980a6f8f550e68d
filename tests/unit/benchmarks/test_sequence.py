"""What the picture of a run promises: calls and mails in the order of time, and nothing that an agent said as markup."""

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.report import _harmless
from benchmarks.sequence import sequence
from runtime.journal import Attempt
from runtime.messages import Report, reply_json
from runtime.result import RunResult, SpendReport

HOSTILE = "</title><script>alert(1)</script>\x1b]0;x\x07\u202e&\"'"


def call(seat: str, began: float, ended: float, *senders: str, **other: Any) -> Attempt:
    figures = (1200, 56, 0, 0, 0, 0, 5, 5)
    reply = reply_json(Report("42"))
    made = Attempt(0, seat, 0, 0, "work", "m", "settled", *figures, began, ended, "stop", reply, senders or ("task",))
    return made._replace(**other)


def run_of(*attempts: Attempt, refusals: int = 0, answer: str = "42", virtual: bool = True) -> RunResult:
    return RunResult(
        *("run-1", "completed", "", answer, True, SpendReport(), {}, {}, 9.0, virtual, "D1", False),
        {"messages": 0, "refusals": refusals},
        attempts,
    )


def parts(svg: str, tag: str) -> list[ElementTree.Element]:
    return [element for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("}" + tag)]


def texts(svg: str) -> str:
    return "|".join(element.text or "" for element in parts(svg, "text"))


def test_calls_are_bars_and_mails_are_arrows_downwards() -> None:
    svg = sequence(run_of(call("a", 0, 2), call("b", 0, 3), call("judge", 3, 4, "a", "b")))
    arrows = [line for line in parts(svg, "line") if not line.get("stroke-dasharray")]

    assert len(parts(svg, "rect")) == 1 + 3
    assert len(arrows) == len(parts(svg, "polygon")) == 2
    assert all(float(arrow.get("y2", 0)) >= float(arrow.get("y1", 0)) for arrow in arrows)
    assert texts(svg).count("1,200 → 56") == 3
    for word in ("a", "b", "judge", "0.0 s", "4.0 s", "completed"):
        assert word in texts(svg)


def test_a_chain_that_takes_no_time_still_goes_downwards() -> None:
    svg = sequence(run_of(call("a", 0, 0), call("b", 0, 0, "a", step=1), call("c", 0, 0, "b", step=2)))
    tops = [float(bar.get("y", 0)) for bar in parts(svg, "rect")[1:]]

    assert len(set(tops)) == 3
    assert len(parts(svg, "polygon")) == 2


def test_what_went_wrong_is_marked() -> None:
    svg = sequence(
        run_of(
            call("a", 0, 1, state="charged_max"),
            call("a", 1, 2, step=1, max_tokens=3),
            call("b", 0, 1, state="released", reply=""),
            refusals=2,
        )
    )

    assert "≤ 56 ✕" in texts(svg)
    assert "1,200 → 56 ▾" in texts(svg)
    assert "2 calls were refused by the budget" in texts(svg)
    assert "1 calls failed at no cost (b)" in texts(svg)


def test_simulated_runs_say_so() -> None:
    assert "simulated, virtual time" in texts(sequence(run_of(call("a", 0, 1, model="sim/small"))))
    assert "simulated" not in texts(sequence(run_of(call("a", 0, 1))))
    assert "(live)" in texts(sequence(run_of(call("a", 0, 1), virtual=False)))


def test_a_big_run_is_cut_with_a_note() -> None:
    many = [call(f"agent[{i}]", i, i + 1) for i in range(300)]
    svg = sequence(run_of(*many), most=20, most_seats=5)

    assert len(parts(svg, "rect")) == 1 + 5
    assert "295 more calls are not shown" in texts(svg)
    assert len(svg) < 20_000


def test_an_empty_run_has_a_picture() -> None:
    assert "completed" in texts(sequence(run_of()))


@pytest.mark.parametrize("where", ["seat", "model", "reply", "kind"])
def test_nothing_that_was_said_is_markup(where: str) -> None:
    said: dict[str, Any] = {where: HOSTILE}
    svg = sequence(run_of(call("a", 0, 1)._replace(**said), answer=HOSTILE))

    assert _harmless(svg) == svg
    assert not re.search("[\x00-\x08\x1b\x07\u202e]", svg)
