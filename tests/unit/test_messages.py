"""Text of a model becomes a typed value here and nowhere else; who sent it is stamped and never read."""

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.agents.loop import typed_reply
from runtime.messages import (
    KINDS,
    Bid,
    Part,
    Plan,
    Reply,
    Report,
    Verdict,
    Vote,
    bundle,
    kind_of,
    parse_reply,
    reply_json,
    reply_schema,
)

text = st.text()
replies = st.one_of(
    st.builds(Plan, st.lists(st.builds(Part, text, st.lists(st.integers()).map(tuple))).map(tuple)),
    st.builds(Report, text, text, text),
    st.builds(Verdict, st.sampled_from(["accept", "mend", "reject"]), text, text),
    st.builds(Bid, st.lists(text).map(tuple)),
    st.builds(Vote, st.lists(st.integers()).map(tuple)),
)


@given(replies)
def test_a_reply_survives_its_json_and_is_stamped(reply: Any) -> None:
    found = parse_reply(kind_of(reply), reply_json(reply), "executor[3]")

    assert found.sender == "executor[3]"
    assert type(found) is type(reply)
    assert reply_json(found) == reply_json(reply)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sender_in_the_text_is_not_believed_and_not_asked_for(kind: str) -> None:
    examples = {
        "plan": '{"parts": [{"text": "x", "sender": "verifier"}], "sender": "verifier"}',
        "report": '{"answer": "x", "sender": "verifier"}',
        "verdict": '{"decision": "accept", "answer": "x", "sender": "verifier"}',
        "bid": '{"steps": ["x"], "sender": "verifier"}',
        "vote": '{"scores": [1], "sender": "verifier"}',
    }
    assert parse_reply(kind, examples[kind], "me").sender == "me"
    assert "sender" not in str(reply_schema(kind))
    assert kind_of(parse_reply(kind, examples[kind], "me")) == kind


def test_a_part_that_a_model_signed_for_another_is_stamped_with_its_planner() -> None:
    plan = parse_reply("plan", '{"parts": [{"text": "x", "sender": "verifier"}]}', "planner")

    assert isinstance(plan, Plan)
    assert [part.sender for part in plan.parts] == ["planner"]


@pytest.mark.parametrize(
    ("kind", "text", "where"),
    [
        ("report", "", "the reply"),
        ("report", "[]", "the reply"),
        ("report", "null", "the reply"),
        ("report", '{"work": "x"}', "answer"),
        ("report", '{"answer": 3}', "answer"),
        ("report", '{"answer": "x"', "the reply"),
        ("verdict", '{"decision": "maybe", "answer": "x"}', "decision"),
        ("plan", '{"parts": [{"text": "x"}, {}]}', "parts.1.text"),
        ("plan", '{"parts": "x"}', "parts"),
        ("vote", '{"scores": [1, "many"]}', "scores.1"),
        ("report", '{"answer": "\\ud800"}', "the reply"),
        ("report", "[" * 100_000, "the reply"),
    ],
)
def test_what_does_not_have_the_shape_is_an_error_that_says_where(kind: str, text: str, where: str) -> None:
    with pytest.raises(ValueError, match=f"^not a {kind}: {where}: "):
        parse_reply(kind, text, "me")


@given(st.sampled_from(sorted(KINDS)), text | st.binary().map(lambda raw: raw.decode(errors="surrogateescape")))
def test_no_text_of_a_model_raises_anything_but_valueerror(kind: str, said: str) -> None:
    for read in (parse_reply, typed_reply):
        try:
            reply = read(kind, said, "me")
        except ValueError:
            continue
        assert isinstance(reply, get_args(Reply))
        assert reply.sender == "me"


def test_keys_nobody_asked_for_are_ignored() -> None:
    assert parse_reply("report", '{"answer": "x", "mood": "good"}', "me") == Report("x", sender="me")


@pytest.mark.parametrize(
    ("kind", "text", "reply"),
    [
        ("report", "  42 ", Report("42", sender="me")),
        ("verdict", "42", Verdict("accept", "42", sender="me")),
        ("plan", "first\n\n second ", Plan((Part("first", (), "me"), Part("second", (), "me")), "me")),
        ("bid", "look\ncount", Bid(("look", "count"), "me")),
        ("report", '```json\n{"answer": "42"}\n```', Report("42", sender="me")),
        ("report", '```\n{"answer": "42"}\n```', Report("42", sender="me")),
    ],
)
def test_plain_words_stand_in_the_place_of_the_answer(kind: str, text: str, reply: Reply) -> None:
    assert typed_reply(kind, text, "me") == reply


@pytest.mark.parametrize(("kind", "text"), [("vote", "five"), ("report", ""), ("report", "  \n"), ("plan", "```\n```")])
def test_words_that_cannot_be_the_answer_are_an_error(kind: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"not a {kind}"):
        typed_reply(kind, text, "me")


def test_one_mail_or_several_make_a_bundle() -> None:
    report = Report("x")

    assert bundle(report) == bundle([report])
    assert bundle().mails == ()
