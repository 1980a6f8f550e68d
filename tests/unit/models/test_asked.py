"""The canonical form of a request: what tells two of them apart, what does not, and where they first differ."""

import pytest

from runtime.agents.blocks import block, without
from runtime.models.asked import asked_of, asked_of_tool, digest_of, first_difference
from runtime.models.base import ChatMessage, ChatRequest, ToolCall, ToolSpec

SYSTEM = ChatMessage("system", "You carry out work.")
TASK = block("task", "How many pigs are twelve pigs?")
NOTE = block("budget", "aim: 300 tokens\n2,100 left")
TOOL = ToolSpec("look", "Looks.", {"type": "object"})


def request(*user: str, seed: int = 0, most: int = 10, reply: str = "report", tools: bool = False) -> ChatRequest:
    said = tuple(ChatMessage("user", text) for text in user)
    return ChatRequest((SYSTEM, *said), most, seed, reply, (TOOL,) if tools else ())


def digest(asked: ChatRequest) -> str:
    return digest_of(asked_of(asked))


def test_seed_and_limit_are_not_part_of_what_is_asked() -> None:
    assert digest(request(TASK)) == digest(request(TASK, seed=7, most=900))


@pytest.mark.parametrize(
    "noted",
    [
        [f"{NOTE}\n{TASK}"],
        [f"{TASK}\n{NOTE}"],
        [TASK, NOTE],
        [NOTE, TASK],
    ],
    ids=["before", "after", "apart", "apart, before"],
)
def test_a_budget_note_is_not_part_of_it_wherever_it_stands(noted: list[str]) -> None:
    assert digest(request(*noted)) == digest(request(TASK))


def test_a_note_between_two_blocks_leaves_them_as_they_were() -> None:
    part = block("part", "The first.")

    assert without(f"{TASK}\n{NOTE}\n{part}", "budget") == f"{TASK}\n{part}"


def test_a_note_that_is_quoted_in_a_mail_belongs_to_the_mail() -> None:
    quoting = block("mail", f"<budget>\nfake\n{NOTE}", kind="report")

    assert (
        digest(request(f"{TASK}\n{quoting}\n{NOTE}")) == digest(request(f"{TASK}\n{quoting}")) != digest(request(TASK))
    )


@pytest.mark.parametrize(
    "other", [request("Other"), request(TASK, TASK), request(TASK, reply="plan"), request(TASK, tools=True)]
)
def test_everything_else_is(other: ChatRequest) -> None:
    assert digest(other) != digest(request(TASK))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (request(TASK), "there is no difference"),
        (
            request(TASK.replace("pigs are", "pugs are")),
            'message 2 of 2 (user) differs at character 18: recorded "<task>\\nHow many pigs are twelve pigs?\\n</task>", now '
            '"<task>\\nHow many pugs are twelve pigs?\\n</task>"',
        ),
        (
            request(TASK, "And then?"),
            "recorded were 2 messages, now there are 3; the first that only one of them has is of the role user: "
            '"And then?"',
        ),
        (
            request(),
            "recorded were 2 messages, now there are 1; the first that only one of them has is of the role user: "
            '"<task>\\nHow many pigs are twelve pigs?\\n</…"',
        ),
        (
            request(TASK, reply="plan"),
            'the typed reply differs at character 2: recorded "\\"report\\"", now "\\"plan\\""',
        ),
        (request(TASK, tools=True), 'the list of tools differs at character 1: recorded "null", now "[{\\"description'),
    ],
    ids=["nothing", "a letter", "one more", "one less", "reply", "tools"],
)
def test_the_first_difference_is_told_with_both_texts(other: ChatRequest, words: str) -> None:
    assert first_difference(asked_of(request(TASK)), asked_of(other)).startswith(words)


def test_only_the_surroundings_of_a_difference_are_shown() -> None:
    long = "x" * 500
    told = first_difference(asked_of(request(f"{long}a{long}")), asked_of(request(f"{long}b{long}")))

    assert told == (
        f'message 2 of 2 (user) differs at character 501: recorded "…{"x" * 40}a{"x" * 39}…", now "…{"x" * 40}b{"x" * 39}…"'
    )


def test_other_roles_and_other_tool_calls_are_told() -> None:
    def asked(role: str, *calls: ToolCall) -> dict[str, object]:
        return asked_of(ChatRequest((ChatMessage(role, "same", calls),), 1))  # type: ignore[arg-type]

    first, second = ToolCall("1", "look", "{}"), ToolCall("1", "listen", "{}")

    assert first_difference(asked("user"), asked("tool")) == "message 1 of 1 (tool) was recorded as user"
    assert first_difference(asked("assistant", first), asked("assistant", second)).startswith(
        "the tool calls of message 1 of 1 (assistant) differ at character"
    )


def test_tool_calls_are_told_apart_by_name_and_arguments() -> None:
    look = asked_of_tool("look", {"at": "a"})

    assert digest_of(look) == digest_of(asked_of_tool("look", {"at": "a"}))
    assert first_difference(look, asked_of_tool("look", {"at": "b"})) == (
        'the arguments of look differ at character 8: recorded "{\\"at\\":\\"a\\"}", now "{\\"at\\":\\"b\\"}"'
    )
    assert first_difference(look, asked_of_tool("listen", {})) == (
        "recorded was a call of the tool look, and now it is a call of the tool listen"
    )
    assert first_difference(asked_of(request(TASK)), look) == (
        "recorded was a request to a model, and now it is a call of the tool look"
    )
