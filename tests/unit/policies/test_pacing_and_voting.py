"""How a budget becomes effort, and several answers become one: pure functions."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import EvenPacing, FixedPacing, agreement, majority
from runtime.messages import Report
from runtime.protocols import PacingView

amounts = st.integers(0, 10**6)
views = st.builds(
    PacingView,
    st.none() | amounts,
    st.none() | amounts,
    amounts,
    amounts,
    amounts,
    st.integers(0, 100),
    st.integers(0, 100),
    amounts,
)
answers = st.lists(st.sampled_from(["a", "A ", "b", "c", ""]).map(Report), max_size=9)


@given(views)
def test_a_share_pays_for_prompt_routing_and_effort_unless_even_the_least_is_too_much(view: PacingView) -> None:
    effort = EvenPacing(most_tokens=4096, least_tokens=64).effort(view)

    assert 64 <= effort <= 4096
    if effort > 64:
        assert effort + view.input_tokens <= view.window_tokens
        if view.share_tokens is not None:
            assert effort + view.input_tokens + view.spent_tokens <= view.share_tokens
        if view.share_pico is not None:
            cost = view.spent_pico + view.input_tokens * view.input_pico + effort * view.output_pico
            assert cost <= view.share_pico or not view.output_pico


@given(views, st.integers(1, 10**6))
def test_a_larger_share_never_makes_less_effort(view: PacingView, more: int) -> None:
    richer = view._replace(
        share_tokens=None if view.share_tokens is None else view.share_tokens + more,
        share_pico=None if view.share_pico is None else view.share_pico + more,
    )

    assert EvenPacing().effort(richer) >= EvenPacing().effort(view)


@given(views, st.integers(1, 5000))
def test_fixed_effort_gives_way_to_nothing_but_the_window(view: PacingView, tokens: int) -> None:
    effort = FixedPacing(tokens).effort(view)

    assert effort == min(tokens, max(1, view.window_tokens - view.input_tokens))


@given(answers)
def test_the_majority_is_the_most_frequent_answer_and_its_first_report(reports: list[Report]) -> None:
    found = majority(reports)
    if not reports:
        assert found is None
        return
    assert found is not None
    counts = Counter(report.answer.strip().casefold() for report in reports)
    said = found.answer.strip().casefold()
    assert counts[said] == max(counts.values())
    assert found is next(report for report in reports if report.answer.strip().casefold() == said)
    assert agreement(reports) == counts[said] / len(reports)


@pytest.mark.parametrize(("said", "answer"), [("b a", "b"), ("a b b a", "a"), ("c a b b", "b")])
def test_a_tie_goes_to_the_answer_that_stands_first(said: str, answer: str) -> None:
    found = majority([Report(word) for word in said.split()])

    assert found is not None
    assert found.answer == answer


def test_nobody_agrees_on_nothing() -> None:
    assert agreement([]) == 0
