"""The office: calls change tables, changes are compared, and what is refused leaves no trace."""

from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.tasks.office import UNCHANGED, Call, Office, read_call
from benchmarks.tasks.office_tools import CALENDAR, CUSTOMERS, DIRECTORY, EMAIL, TASKS, TOOLS, VISITS, Refused
from runtime.agents.tools import use

pytestmark = pytest.mark.anyio

TABLES = MappingProxyType(
    {
        CALENDAR: [
            {
                "event_id": "00000007",
                "event_name": "Stand-up",
                "participant_email": "ana@atlas.com",
                "event_start": "2023-11-29 09:00:00",
                "duration": "30",
            }
        ],
        EMAIL: [
            {
                "email_id": "00000001",
                "inbox/outbox": "inbox",
                "sender/recipient": "ana@atlas.com",
                "subject": "Plan",
                "sent_datetime": "2023-11-01 08:00:00",
                "body": "See below",
            }
        ],
        TASKS: [
            {
                "task_id": "00000010",
                "task_name": "Draw icons",
                "assigned_to_email": "ana@atlas.com",
                "list_name": "Backlog",
                "due_date": "2023-12-05",
                "board": "Design",
            }
        ],
        CUSTOMERS: [{"customer_id": "00000021", "customer_name": "Kim Lee", "status": "Lead"}],
        VISITS: [],
        DIRECTORY: [{"email_address": "ana@atlas.com"}],
    }
)


def office() -> Office:
    return Office(TABLES)


def after(*calls: str) -> str:
    """The changes that calls make, as they would be recorded."""
    return office().follow(map(read_call, calls)).changes()


def subject(text: str) -> str:
    return f'email.send_email.func(recipient="a@b.c", subject="{text}", body="x")'


def test_an_answer_is_a_text() -> None:
    assert office().call("email.delete_email", email_id="00000001") == "email deleted"
    assert office().call("company_directory.find_email_address", name="ana") == '["ana@atlas.com"]'


def test_calls_build_on_one_another_and_leave_the_tables_of_others_alone() -> None:
    first = office()
    first.call("email.delete_email", email_id="00000001")

    with pytest.raises(Refused, match="there is no email 00000001"):
        first.call("email.delete_email", email_id="00000001")
    assert office().call("email.delete_email", email_id="00000001") == "email deleted"


def test_an_unknown_tool_an_unknown_parameter_and_a_value_that_is_no_text_are_told() -> None:
    with pytest.raises(LookupError, match=r"there is no tool email\.burn"):
        office().call("email.burn")
    with pytest.raises(TypeError, match="has the parameters email_id, each a text; id is none of it"):
        office().call("email.delete_email", id="00000001")
    with pytest.raises(TypeError, match="email_id is none of it"):
        office().call("email.delete_email", email_id=1)  # type: ignore[arg-type]


def test_changes_name_the_record_and_what_is_new() -> None:
    update = 'project_management.update_task.func(task_id="00000010", field="board", new_value="Front end")'

    assert after() == UNCHANGED
    assert after('email.delete_email.func(email_id="00000001")').startswith("email 00000001: removed; state ")
    assert after(update).startswith("project_management 00000010: board Front end; state ")
    assert after(subject("Hi")).startswith("email 00000002: inbox/outbox outbox, sender/recipient a@b.c, subject hi,")


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (subject("Hello"), subject("hELLO"), True),
        (subject("Hello"), subject("Hello!"), False),
        # Texts that are alike as far as they are shown: the digest tells them apart.
        (subject("x" * 60), subject("x" * 61), False),
        (subject("a b"), subject("a  b"), False),
        (
            'customer_relationship_manager.add_customer.func(customer_name="A", assigned_to_email="b", status="Won")',
            'customer_relationship_manager.add_customer.func(customer_name="a", assigned_to_email="B", status="Won")',
            True,
        ),
        (
            'customer_relationship_manager.add_customer.func(customer_name="A", assigned_to_email="b", status="Won")',
            'customer_relationship_manager.add_customer.func(customer_name="A", assigned_to_email="b", status="won")',
            False,
        ),
    ],
)
def test_case_counts_in_three_fields_only_and_all_else_counts_fully(one: str, other: str, alike: bool) -> None:
    assert (after(one) == after(other)) is alike


def test_the_way_does_not_count_but_the_number_of_plots_does() -> None:
    plot = 'analytics.create_plot.func(time_min="1", time_max="2", value_to_plot="total_visits", plot_type="{}")'.format
    there = 'project_management.update_task.func(task_id="00000010", field="board", new_value="Front end")'
    back = 'project_management.update_task.func(task_id="00000010", field="board", new_value="Design")'

    assert after(there, back) == UNCHANGED
    assert after(plot("bar"), plot("line")) == after(plot("line"), plot("bar"))
    assert after(plot("bar"), plot("bar")) != after(plot("bar"))


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ('email.delete_email.func(email_id="1")', Call("email.delete_email", {"email_id": "1"})),
        ("email.delete_email.func(email_id=1)", Call("email.delete_email", {"email_id": 1})),
        (r'x.func(a="\d")', Call("x", {"a": r"\d"})),
        ('x.func(**{"a": "1"})', Call("x", {"None": {"a": "1"}})),
        ('email.delete_email.func("1")', None),
        ("email.delete_email.func(email_id=me)", None),
        ("email.delete_email.func(", None),
        ("email", None),
        ("", None),
        ("x.func(a=" + "-" * 100_000 + "1)", None),
    ],
)
def test_a_recorded_call_is_read_or_is_none(text: str, call: Call | None) -> None:
    assert read_call(text) == call


words = st.text(alphabet="ab0 @.-", max_size=12)
unknown = st.builds(Call, words.map(lambda name: f"email.{name}?"), st.dictionaries(words, words, max_size=2))
misused = st.builds(
    Call,
    st.sampled_from(sorted(TOOLS)),
    st.dictionaries(words.map(lambda name: f"{name}?"), words, min_size=1, max_size=2)
    | st.dictionaries(st.sampled_from(["email_id", "query", "name"]), st.integers(), min_size=1, max_size=2),
)
astray = st.builds(
    lambda tool, id, field, value: Call(
        tool, {"event_id": id, "task_id": id, "customer_id": id, "email_id": id, "field": field, "new_value": value}
    ),
    st.sampled_from([name for name in sorted(TOOLS) if "delete_" in name or "update_" in name]),
    words.filter(lambda id: id not in {"00000001", "00000007", "00000010", "00000021"}),
    words,
    words,
).map(lambda call: Call(call.name, {k: v for k, v in call.arguments.items() if k in TOOLS[call.name][1]}))


@given(st.lists(unknown | misused | astray | st.none(), max_size=8))
def test_an_office_followed_by_calls_that_are_refused_is_untouched(calls: list[Call | None]) -> None:
    used = office().follow(calls)

    assert used.changes() == UNCHANGED
    assert used.follow([read_call(subject("Hi"))]).changes() == after(subject("Hi"))


def test_an_agent_gets_the_tools_of_its_domains_and_the_directory() -> None:
    docs = {name: f"about {name}" for name in TOOLS}
    few, every = office().tools(docs, EMAIL), office().tools(docs)

    assert [tool.name for tool in few] == [
        "email_get_email_information_by_id",
        "email_search_emails",
        "email_send_email",
        "email_delete_email",
        "email_forward_email",
        "email_reply_email",
        "company_directory_find_email_address",
    ]
    assert (len(every), {tool.virtual for tool in every}) == (27, {True})
    assert few[3].description == "about email.delete_email"
    assert few[3].parameters == {"type": "object", "properties": {"email_id": {"type": "string"}}}


async def test_tools_act_on_their_office_and_show_refusals_to_the_agent() -> None:
    one = office()
    tools = {tool.name: tool for tool in one.tools(dict.fromkeys(TOOLS, "d"))}

    async def seen(tool: str, **arguments: Any) -> str:
        return await use(tools[tool], arguments)

    assert await seen("company_directory_find_email_address", name="ana") == '["ana@atlas.com"]'
    assert await seen("email_delete_email", email_id="5") == "error: Refused: there is no email 5"
    assert one.changes() == UNCHANGED
    assert await seen("email_delete_email", email_id="00000001") == "email deleted"
    assert one.changes() == after('email.delete_email.func(email_id="00000001")')
