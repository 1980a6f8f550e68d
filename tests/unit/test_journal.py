"""Rows of the journal."""

from runtime.journal import Attempt, attempt_of

ROW = Attempt(
    1, "a", 0, 0, "work", "m", "settled", 3, 4, 5, 0, 6, 7, 8, 9, 1.0, 2.0, "stop", "42", ("task", "b"), waited_s=0.5
)
LAST = Attempt._fields.index("senders")
"""Where rows ended once."""


def test_a_row_comes_back_from_json_as_it_was() -> None:
    assert attempt_of([*ROW[:LAST], ["task", "b"], *ROW[LAST + 1 :]]) == ROW


def test_a_row_of_an_older_store_waited_for_nothing() -> None:
    assert attempt_of([*ROW[:LAST], ["task", "b"]]) == ROW._replace(waited_s=0.0)
