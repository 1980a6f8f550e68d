"""What counts as a right answer."""

from typing import Any

import pytest

from runtime.errors import ConfigError
from runtime.task import Task, last_number


@pytest.mark.parametrize(
    ("check", "expected", "answer", "right"),
    [
        ("exact", "Blue", " blue\n", True),
        ("exact", "Blue", "blue.", False),
        ("numeric", "1,200", "It is 1200.00", True),
        ("numeric", "1200", "1200, not 1201", False),
        ("numeric", "1000000", "1000000.9", True),
        ("numeric", "1000000", "1000001.1", False),
        ("numeric", "-3", "minus: -3", True),
        ("numeric", "3", "none", False),
        ("contains", "blue", "It is BLUE, I think", True),
        ("contains", "blue", "green", False),
        ("choice", "B", "(b) is right, so B", True),
        ("choice", "B", "B, no: C", False),
        ("choice", "A", "aBc", False),
    ],
)
def test_an_answer_is_compared_as_its_check_says(check: Any, expected: str, answer: str, right: bool) -> None:
    assert Task("q", expected, check).correct(answer) is right


def test_no_answer_is_wrong_and_no_expectation_is_unknown() -> None:
    assert Task("q", "a").correct(None) is False
    assert Task("q").correct("a") is None
    assert Task("q").correct(None) is None


def test_a_checker_of_ones_own_goes_before_the_expected_answer_and_its_word_becomes_a_bool() -> None:
    class Yes:
        def __call__(self, answer: str) -> Any:
            return [answer]

    task = Task("q", "a", checker=Yes())

    assert task.correct("b") is True
    assert task.correct(None) is False


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"prompt": " \n"}, "a prompt that is not empty"),
        ({"prompt": "q", "check": "roughly"}, "check='roughly' is unknown"),
        ({"prompt": "q", "answer": "none", "check": "numeric"}, "can never pass"),
        ({"prompt": "q", "answer": "both", "check": "choice"}, "can never pass"),
    ],
)
def test_a_task_nobody_can_solve_is_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Task(**given)


def test_the_last_number_is_read_with_sign_thousands_and_decimals() -> None:
    assert last_number("from 1 to -1,234,567.5") == -1234567.5
    assert last_number("no digits") is None


def test_an_address_is_over_content_and_not_over_the_label() -> None:
    assert Task("q", "a").address == Task("q", "a", id="label").address
    assert len({t.address for t in (Task("q"), Task("p"), Task("q", "a"), Task("q", "a", "contains"))}) == 4
    assert Task("q").id == Task("q").address[:12]
