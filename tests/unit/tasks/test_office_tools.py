"""The tools of the office: what each answers, what it changes, and what it refuses without changing anything."""

from copy import deepcopy
from typing import Any

import pytest

from benchmarks.tasks.office_tools import (
    CALENDAR,
    CUSTOMERS,
    DIRECTORY,
    EMAIL,
    NOW,
    PLOTS,
    TASKS,
    TOOLS,
    VISITS,
    Refused,
    Row,
)

State = dict[str, list[Row]]


def rows(fields: str, *lines: str) -> list[Row]:
    return [dict(zip(fields.split(), line.split("|"), strict=True)) for line in lines]


@pytest.fixture
def state() -> State:
    return {
        CALENDAR: rows(
            "event_id event_name participant_email event_start duration",
            "00000007|Stand-up|ana@atlas.com|2023-11-29 09:00:00|30",
            "00000012|Review|bo@atlas.com|2023-12-01 10:00:00|60",
        ),
        EMAIL: rows(
            "email_id inbox/outbox sender/recipient subject sent_datetime body",
            "00000001|inbox|ana@atlas.com|Budget plan|2023-11-01 08:00:00|See the figures",
            "00000003|outbox|bo@atlas.com|Figures|2023-11-20 08:00:00|Here is the plan",
        ),
        TASKS: rows(
            "task_id task_name assigned_to_email list_name due_date board",
            "00000010|Draw icons|ana@atlas.com|Backlog|2023-12-05|Design",
            "00000011|Fix login|bo@atlas.com|In Progress|2023-12-06|Back end",
        ),
        CUSTOMERS: rows(
            "customer_id assigned_to_email customer_name customer_email customer_phone last_contact_date "
            "product_interest status follow_up_by notes",
            "00000021|ana@atlas.com|Kim Lee|kim@x.com|1|2023-11-01|Software|Lead|2023-12-10|called",
            "00000022|bo@atlas.com|Max Roe|max@y.com|2|2023-11-15|Hardware|Won|2023-12-20|wrote",
        ),
        VISITS: rows(
            "date_of_visit visitor_id page_views session_duration_seconds traffic_source user_engaged",
            "2023-11-02|0002|3|20|referral|False",
            "2023-11-01|0001|4|10|direct|True",
            "2023-11-02|0001|2|5|direct|True",
        ),
        DIRECTORY: rows("email_address", "ana@atlas.com", "bo@atlas.com"),
        PLOTS: [],
    }


def use(state: State, tool: str, **arguments: str) -> Any:
    """What the tool answers, whose name is unique without its domain."""
    [(action, parameters)] = [known for name, known in TOOLS.items() if name.endswith(f".{tool}")]
    assert set(arguments) <= set(parameters)
    return action(state, dict.fromkeys(parameters, "") | arguments)


def ids(found: list[Row]) -> list[str]:
    return [next(iter(row.values())) for row in found]


def test_there_are_27_tools() -> None:
    assert len(TOOLS) == 27


@pytest.mark.parametrize(
    ("tool", "arguments", "answer"),
    [
        ("get_event_information_by_id", {"event_id": "00000007", "field": "duration"}, {"duration": "30"}),
        ("get_email_information_by_id", {"email_id": "00000003", "field": "subject"}, {"subject": "Figures"}),
        ("get_task_information_by_id", {"task_id": "00000010", "field": "board"}, {"board": "Design"}),
        ("find_email_address", {"name": "ANA"}, ["ana@atlas.com"]),
        ("find_email_address", {"name": "nobody"}, []),
        ("total_visits_count", {}, {"2023-11-01": 1, "2023-11-02": 2}),
        ("total_visits_count", {"time_max": "2023-11-01"}, {"2023-11-01": 1}),
        ("engaged_users_count", {"time_min": "2023-11-02"}, {"2023-11-02": 1}),
        ("traffic_source_count", {"traffic_source": "direct"}, {"2023-11-01": 1, "2023-11-02": 1}),
        ("traffic_source_count", {}, {"2023-11-01": 1, "2023-11-02": 2}),
        ("get_average_session_duration", {}, {"2023-11-01": 10.0, "2023-11-02": 12.5}),
    ],
)
def test_a_reading_tool_answers_and_changes_nothing(
    state: State, tool: str, arguments: dict[str, str], answer: object
) -> None:
    before = deepcopy(state)

    assert use(state, tool, **arguments) == answer
    assert state == before


@pytest.mark.parametrize(
    ("tool", "arguments", "found"),
    [
        ("search_events", {}, ["00000007", "00000012"]),
        ("search_events", {"query": "BO@"}, ["00000012"]),
        # An event that ends exactly at the lower bound is still found, and one that begins at the upper.
        ("search_events", {"time_min": "2023-11-29 09:30:00"}, ["00000007", "00000012"]),
        ("search_events", {"time_min": "2023-11-29 09:30:01"}, ["00000012"]),
        ("search_events", {"time_max": "2023-12-01 10:00:00"}, ["00000007", "00000012"]),
        ("search_events", {"time_max": "2023-12-01 09:59:59"}, ["00000007"]),
        # The newest first; every word of the query has to be somewhere.
        ("search_emails", {"query": "plan FIGURES"}, ["00000003", "00000001"]),
        ("search_emails", {"query": "budget bo@atlas.com"}, []),
        ("search_emails", {"date_min": "2023-11-20"}, ["00000003"]),
        ("search_emails", {"date_max": "2023-11-19"}, ["00000001"]),
        ("search_tasks", {"task_name": "LOGIN"}, ["00000011"]),
        ("search_tasks", {"board": "end", "list_name": "Backlog"}, []),
        ("search_customers", {"status": "won"}, ["00000022"]),
        ("search_customers", {"last_contact_date_min": "2023-11-15"}, ["00000022"]),
        ("search_customers", {"follow_up_by_max": "2023-12-19"}, ["00000021"]),
        ("get_visitor_information_by_id", {"visitor_id": "0002"}, ["2023-11-02"]),
    ],
)
def test_a_search_finds(state: State, tool: str, arguments: dict[str, str], found: list[str]) -> None:
    assert ids(use(state, tool, **arguments)) == found


def test_a_search_shows_five_and_one_for_tasks_all(state: State) -> None:
    for table in (CALENDAR, EMAIL, TASKS, CUSTOMERS):
        state[table] *= 3

    shown = [len(use(state, tool)) for tool in ("search_events", "search_emails")]
    shown += [len(use(state, f"search_{what}", assigned_to_email="@")) for what in ("tasks", "customers")]

    assert shown == [5, 5, 6, 5]


@pytest.mark.parametrize(
    ("tool", "table", "key"),
    [
        ("delete_event", CALENDAR, "event_id"),
        ("delete_email", EMAIL, "email_id"),
        ("delete_task", TASKS, "task_id"),
        ("delete_customer", CUSTOMERS, "customer_id"),
    ],
)
def test_deleting_takes_one_record_out(state: State, tool: str, table: str, key: str) -> None:
    first, second = state[table]

    assert use(state, tool, **{key: first[key]}).endswith(" deleted")
    assert state[table] == [second]


@pytest.mark.parametrize(
    ("tool", "table", "key", "field", "value"),
    [
        ("update_event", CALENDAR, "event_id", "duration", "45"),
        ("update_event", CALENDAR, "event_id", "colour", "red"),
        ("update_task", TASKS, "task_id", "assigned_to_email", "bo@atlas.com"),
        ("update_customer", CUSTOMERS, "customer_id", "status", "Proposal"),
    ],
)
def test_updating_changes_one_field_and_not_the_row_it_was_given(
    state: State, tool: str, table: str, key: str, field: str, value: str
) -> None:
    first, second = state[table]
    before = dict(first)

    assert use(state, tool, **{key: first[key], "field": field, "new_value": value}).endswith(" updated")
    assert state[table] == [before | {field: value}, second]
    assert first == before


@pytest.mark.parametrize(
    ("tool", "table", "arguments", "added"),
    [
        (
            "create_event",
            CALENDAR,
            "event_name=Lunch|participant_email=bo@atlas.com|event_start=2023-12-02 12:00:00|duration=60",
            "00000013|Lunch|bo@atlas.com|2023-12-02 12:00:00|60",
        ),
        (
            "create_task",
            TASKS,
            "task_name=Test|assigned_to_email=ana@atlas.com|list_name=In Review|due_date=2023-12-09|board=Front end",
            "00000012|Test|ana@atlas.com|In Review|2023-12-09|Front end",
        ),
        # What a new customer may be is not checked.
        (
            "add_customer",
            CUSTOMERS,
            "customer_name=Zoe|assigned_to_email=nobody|status=asleep",
            "00000023|nobody|Zoe|||||asleep||",
        ),
        (
            "send_email",
            EMAIL,
            "recipient=cy@atlas.com|subject=Hi|body=There",
            f"00000004|outbox|cy@atlas.com|Hi|{NOW}|There",
        ),
        (
            "forward_email",
            EMAIL,
            "email_id=00000001|recipient=cy@atlas.com",
            f"00000004|outbox|cy@atlas.com|FW: Budget plan|{NOW}|See the figures",
        ),
        (
            "reply_email",
            EMAIL,
            "email_id=00000001|body=Thanks",
            f"00000004|outbox|ana@atlas.com|Budget plan|{NOW}|Thanks",
        ),
    ],
)
def test_a_new_record_gets_the_next_id_and_stands_at_the_end(
    state: State, tool: str, table: str, arguments: str, added: str
) -> None:
    before = list(state[table])

    answer = use(state, tool, **dict(part.split("=") for part in arguments.split("|")))

    assert "|".join(state[table][-1].values()) == added
    assert state[table][:-1] == before
    assert answer == ("email sent" if table == EMAIL else added[:8])


def test_a_plot_is_a_file_named_by_all_that_it_shows(state: State) -> None:
    bounds = {"time_min": "2023-11-01", "time_max": "2023-11-02"}

    answer = use(state, "create_plot", **bounds, value_to_plot="user_engaged", plot_type="line")

    assert answer == "plots/2023-11-01_2023-11-02_user_engaged_line.png"
    assert state[PLOTS] == [{"file_path": answer}]


NEW_TASK = {
    "task_name": "T",
    "assigned_to_email": "ana@atlas.com",
    "list_name": "Backlog",
    "due_date": "2023-12-09",
    "board": "Design",
}


@pytest.mark.parametrize(
    ("tool", "arguments", "complaint"),
    [
        ("get_event_information_by_id", {"event_id": "00000007"}, "field is not given"),
        ("get_event_information_by_id", {"event_id": "7", "field": "duration"}, "there is no event 7"),
        (
            "get_task_information_by_id",
            {"task_id": "00000010", "field": "owner"},
            "no field 'owner'; there are task_id,",
        ),
        ("delete_event", {}, "event_id is not given"),
        ("delete_email", {"email_id": "None"}, "there is no email None"),
        ("delete_task", {"task_id": "99"}, "there is no task 99"),
        ("delete_customer", {"customer_id": "99"}, "there is no customer 99"),
        ("update_event", {"event_id": "00000007", "field": "duration"}, "new_value is not given"),
        (
            "update_event",
            {"event_id": "00000007", "field": "participant_email", "new_value": "ana"},
            "'ana' is no email address",
        ),
        ("update_task", {"task_id": "00000010", "field": "owner", "new_value": "x"}, "no field 'owner'"),
        (
            "update_task",
            {"task_id": "00000010", "field": "board", "new_value": "design"},
            "board must be one of Back end",
        ),
        (
            "update_task",
            {"task_id": "00000010", "field": "assigned_to_email", "new_value": "cy@atlas.com"},
            "no member of the team",
        ),
        (
            "update_customer",
            {"customer_id": "00000021", "field": "status", "new_value": "won"},
            "status must be one of",
        ),
        (
            "create_event",
            {"event_name": "L", "participant_email": "bo", "event_start": "x", "duration": "1"},
            "'bo' is no email address",
        ),
        ("create_event", {"event_name": "L"}, "participant_email is not given"),
        ("create_task", NEW_TASK | {"list_name": "Done"}, "list_name must be one of"),
        ("create_task", NEW_TASK | {"assigned_to_email": "cy@atlas.com"}, "no member of the team"),
        ("create_task", NEW_TASK | {"due_date": ""}, "due_date is not given"),
        ("add_customer", {"customer_name": "Zoe"}, "assigned_to_email is not given"),
        ("send_email", {"recipient": "cy", "subject": "s", "body": "b"}, "'cy' is no email address"),
        ("send_email", {"recipient": "cy@atlas.com", "subject": "s"}, "body is not given"),
        ("forward_email", {"email_id": "9", "recipient": "cy@atlas.com"}, "there is no email 9"),
        ("forward_email", {"email_id": "00000001", "recipient": "all"}, "'all' is no email address"),
        ("reply_email", {"email_id": "9", "body": "b"}, "there is no email 9"),
        ("reply_email", {"email_id": "00000001"}, "body is not given"),
        ("search_events", {"time_min": "tomorrow"}, "'tomorrow' is no date; write YYYY-MM-DD"),
        ("search_emails", {"date_max": "2023-13-01"}, "'2023-13-01' is no date"),
        ("search_tasks", {}, "at least one of task_name, assigned_to_email,"),
        ("search_customers", {}, "at least one of customer_name,"),
        ("get_visitor_information_by_id", {}, "visitor_id is not given"),
        ("create_plot", {"time_min": "a"}, "time_max is not given"),
        (
            "create_plot",
            {"time_min": "a", "time_max": "b", "value_to_plot": "x", "plot_type": "bar"},
            "value_to_plot must be one of total_visits,",
        ),
        (
            "create_plot",
            {"time_min": "a", "time_max": "b", "value_to_plot": "total_visits", "plot_type": "pie"},
            "plot_type must be one of bar,",
        ),
        ("find_email_address", {}, "name is not given"),
    ],
)
def test_what_is_refused_changes_nothing(state: State, tool: str, arguments: dict[str, str], complaint: str) -> None:
    before = deepcopy(state)

    with pytest.raises(Refused, match=complaint):
        use(state, tool, **arguments)

    assert state == before


def test_an_emptied_table_refuses_new_records(state: State) -> None:
    state[TASKS].clear()

    for tool, arguments in (
        ("create_task", NEW_TASK),
        ("get_task_information_by_id", {"task_id": "1", "field": "board"}),
    ):
        with pytest.raises(Refused, match="there is no task"):
            use(state, tool, **arguments)
