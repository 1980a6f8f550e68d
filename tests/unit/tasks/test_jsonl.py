"""A user's own tasks: what a line may hold, and errors that name file, line, field and cure."""

from codecs import BOM_UTF8
from pathlib import Path

import pytest

from benchmarks.tasks.jsonl import MAX_LINE_BYTES, load
from runtime.errors import ConfigError
from runtime.task import Task

GOOD = '{"prompt": "6 x 7?", "answer": "42", "check": "numeric"}'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tasks.jsonl"


def fault(file: Path, text: str | bytes) -> str:
    """What `load` says of a file, without the folder."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load(file)
    return str(caught.value).replace(str(file), file.name)


def test_tasks_come_in_the_order_of_the_file(file: Path) -> None:
    lines = [
        GOOD,
        '{"prompt": "Capital of Chad?", "answer": "N\'Djamena", "check": "contains", "id": "chad", "family": "cities"}',
        '{"prompt": "A or B?", "answer": "B", "check": "choice", "id": null}',
        '{"prompt": "Say é.\\n", "answer": "é", "check": "exact"}',
    ]
    file.write_text("\n".join(lines), encoding="utf-8")

    assert load(str(file)) == [
        Task("6 x 7?", "42", "numeric"),
        Task("Capital of Chad?", "N'Djamena", "contains", id="chad", family="cities"),
        Task("A or B?", "B", "choice"),
        Task("Say é.\n", "é", "exact"),
    ]


def test_blank_lines_windows_line_ends_and_a_byte_order_mark_do_no_harm(file: Path) -> None:
    file.write_bytes(BOM_UTF8 + GOOD.encode() + b"\r\n\r\n  \n" + GOOD.replace("7", "8").encode())

    assert [task.prompt for task in load(file)] == ["6 x 7?", "6 x 8?"]


def test_a_prompt_may_have_any_length_that_fits_a_line(file: Path) -> None:
    room = MAX_LINE_BYTES - len(GOOD)
    file.write_text(GOOD.replace("6 x", "6" * room + "6 x"))

    assert len(load(file)[0].prompt) == room + len("6 x 7?")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{oops", "not valid JSON (key must be a string at column 2); write one object a line"),
        ('["6 x 7?", "42"]', "not a JSON object; write one object in braces a line"),
        ('{"prompt": "x", "check": "exact"}', "answer: is missing; each line needs prompt, answer, check"),
        (GOOD.replace('"check"', '"chek"'), "check: is missing; each line needs prompt, answer, check"),
        (GOOD.replace("{", '{"level": "5", '), "level: no such field; there are prompt, answer, check, id, family"),
        (GOOD.replace("numeric", "fuzzy"), "check: unknown; take 'exact', 'numeric', 'contains' or 'choice'"),
        (GOOD.replace("6 x 7?", " \\n"), "prompt: is empty; write what the team is to do"),
        (GOOD.replace('"42"', "42"), 'answer: must be text; write it in quotes, as in "42"'),
        (GOOD.replace('"42"', "null"), 'answer: must be text; write it in quotes, as in "42"'),
        (GOOD.replace("42", "many"), "answer: can never pass check 'numeric'; change the one or the other"),
        (GOOD.replace("{", '{"id": "", '), "id: must be 1 to 200 printable characters, or left out"),
        (GOOD.replace("{", '{"id": "a\\u001b[2J", '), "id: must be 1 to 200 printable characters, or left out"),
        (GOOD.replace("{", '{"family": "a\\nb", '), "family: must be 1 to 200 printable characters, or left out"),
        ("[" * 100_000, "not valid JSON (recursion limit exceeded at column 202); write one object a line"),
    ],
)
def test_a_broken_line_is_named_with_its_cure(file: Path, line: str, complaint: str) -> None:
    assert fault(file, f"{GOOD}\n\n{line}\n").startswith(f"tasks.jsonl:3: {complaint}")


def test_text_that_is_not_utf8_is_no_json(file: Path) -> None:
    assert fault(file, GOOD.replace("x", "×").encode("latin-1")).startswith("tasks.jsonl:1: not valid JSON")


def test_half_a_character_is_no_text(file: Path) -> None:
    assert fault(file, GOOD.replace("x", "\\ud800")).startswith("tasks.jsonl:1: not valid JSON")


def test_an_id_stands_once(file: Path) -> None:
    first, second = (GOOD.replace("{", '{"id": "a", ').replace("6 x 7", more) for more in ("7 x 6", "21 x 2"))

    assert (
        fault(file, f"{GOOD}\n{first}\n{second}")
        == "tasks.jsonl:3: id: the same as in line 2; give each task an id of its own"
    )


def test_a_task_stands_once_whatever_its_id(file: Path) -> None:
    twin = GOOD.replace("{", '{"id": "twin", ')

    assert fault(file, f"{GOOD}\n{twin}").startswith("tasks.jsonl:2: prompt: the same as in line 1; remove one")


def test_two_families_may_share_a_task(file: Path) -> None:
    file.write_text(GOOD + "\n" + GOOD.replace("{", '{"family": "hard", '))

    assert len(load(file)) == 2


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_tasks_is_refused_with_an_example(file: Path, text: str) -> None:
    assert fault(file, text).startswith('tasks.jsonl: no tasks in it; write one JSON object a line, such as {"prompt"')


def test_a_line_that_is_too_long_is_refused(file: Path) -> None:
    long = GOOD.replace("6 x", "6" * MAX_LINE_BYTES)

    assert fault(file, f"{GOOD}\n{long}") == "tasks.jsonl:2: longer than 1,000,000 bytes; shorten the prompt"


def test_a_file_that_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"tasks\.jsonl: cannot be read: No such file"):
        load(file)


def test_a_folder_is_no_file_of_tasks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)


def test_an_error_does_not_repeat_the_prompt(file: Path) -> None:
    assert "6 x" not in fault(file, GOOD.replace("numeric", "fuzzy"))
