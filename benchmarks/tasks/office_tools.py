"""Owns the 27 tools of the WorkBench office, as functions over its tables: what they answer, change and refuse.

A tool gets the tables and its arguments: texts, as models write them, and empty where they were left out. What it refuses
has changed nothing.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from statistics import fmean
from typing import Any, NamedTuple

Row = dict[str, str]
State = Mapping[str, list[Row]]
"""Rows by table. Tools put rows in, take them out and put others in their place; a row itself stays as it is."""
Arguments = Mapping[str, str]

EMAIL, CALENDAR, VISITS, TASKS, CUSTOMERS = (
    "email",
    "calendar",
    "analytics",
    "project_management",
    "customer_relationship_manager",
)
DIRECTORY, PLOTS = "company_directory", "plots"

NOW = "2023-11-30 00:00:00"
"""The time in the office, which stands still."""
SHOWN = 5
"""Records that a search shows at most; all of them where tasks are searched."""
_ALLOWED = {
    "status": "Qualified, Won, Lost, Lead, Proposal",
    "product_interest": "Software, Hardware, Services, Consulting, Training",
    "list_name": "Backlog, In Progress, In Review, Completed",
    "board": "Back end, Front end, Design",
    "value_to_plot": "total_visits, session_duration_seconds, user_engaged, visits_direct, visits_referral, "
    "visits_search_engine, visits_social_media",
    "plot_type": "bar, line, scatter, histogram",
}


class Refused(ValueError):
    """A call that changes nothing; its text is what the caller sees."""


class Records(NamedTuple):
    """A table of records with an id, and the tools that are alike for all of these."""

    table: str
    noun: str
    key: str
    required: tuple[str, ...] = ()
    """Fields that a new record must have."""
    any_field: bool = False
    """Whether an update may name a field that no record has."""

    def find(self, state: State, id: str) -> Row:
        """The record of an id."""
        for row in state[self.table]:
            if row[self.key] == id:
                return row
        raise Refused(f"there is no {self.noun} {id}")

    def information(self, state: State, a: Arguments) -> Row:
        """One field of a record."""
        _need(a, self.key, "field")
        return {a["field"]: self.find(state, a[self.key])[self._known(state, a["field"])]}

    def delete(self, state: State, a: Arguments) -> str:
        """Take a record out."""
        _need(a, self.key)
        state[self.table].remove(self.find(state, a[self.key]))
        return f"{self.noun} deleted"

    def update(self, state: State, a: Arguments) -> str:
        """Change one field of a record."""
        _need(a, self.key, "field", "new_value")
        field = a["field"] if self.any_field else self._known(state, a["field"])
        found, rows = self.find(state, a[self.key]), state[self.table]
        rows[rows.index(found)] = found | {field: self._checked(state, field, a["new_value"])}
        return f"{self.noun} updated"

    def add(self, state: State, a: Arguments) -> str:
        """Put a record at the end, under the next id. What is not required is not checked, as in the original."""
        _need(a, *self.required)
        fields, rows = self._columns(state), state[self.table]
        id = f"{max(int(row[self.key]) for row in rows) + 1:08}"
        checked = {name: self._checked(state, name, a[name]) for name in self.required if self.table != CUSTOMERS}
        rows.append({name: {**a, **checked, self.key: id}.get(name, "") for name in fields})
        return id

    def _columns(self, state: State) -> tuple[str, ...]:
        if not state[self.table]:  # with the last record went its fields and the count of ids
            raise Refused(f"there is no {self.noun} left")
        return tuple(state[self.table][0])

    def _known(self, state: State, field: str) -> str:
        if field not in self._columns(state):
            raise Refused(f"there is no field {field!r}; there are {', '.join(self._columns(state))}")
        return field

    def _checked(self, state: State, field: str, value: str) -> str:
        if self.table == TASKS and field == "assigned_to_email":
            if value.lower() not in {row[field] for row in state[TASKS]}:
                raise Refused(f"{value!r} is no member of the team")
        elif field.endswith("_email"):
            return _address(value)
        return _one_of(field, value)


_EVENT = Records(
    CALENDAR, "event", "event_id", ("event_name", "participant_email", "event_start", "duration"), any_field=True
)
_MAIL = Records(EMAIL, "email", "email_id")
_TASK = Records(TASKS, "task", "task_id", ("task_name", "assigned_to_email", "list_name", "due_date", "board"))
_CUSTOMER = Records(CUSTOMERS, "customer", "customer_id", ("customer_name", "assigned_to_email", "status"))
KEYS = {records.table: records.key for records in (_EVENT, _MAIL, _TASK, _CUSTOMER)}
"""Id of the records of each table that has one."""


def _search_events(state: State, a: Arguments) -> list[Row]:
    """Events that end at `time_min` or later and begin at `time_max` or earlier."""
    low, high = _time(a["time_min"] or "0001-01-02"), _time(a["time_max"] or "9999-12-31")

    def fits(row: Row) -> bool:
        begin = _time(row["event_start"])
        text = f"{row['event_name']}\n{row['participant_email']}".lower()
        return a["query"].lower() in text and begin <= high and begin + _minutes(row["duration"]) >= low

    return [row for row in state[CALENDAR] if fits(row)][:SHOWN]


def _search_emails(state: State, a: Arguments) -> list[Row]:
    """Emails with all words of the query somewhere in them, the newest first."""
    low, high = _time(a["date_min"] or "0001-01-01").date(), _time(a["date_max"] or "9999-12-31").date()
    words = a["query"].lower().split()

    def fits(row: Row) -> bool:
        text = " ".join((row["subject"], row["body"], row["sender/recipient"])).lower()
        return all(word in text for word in words) and low <= _time(row["sent_datetime"]).date() <= high

    return sorted(filter(fits, state[EMAIL]), key=lambda row: row["sent_datetime"], reverse=True)[:SHOWN]


def _send_email(state: State, a: Arguments) -> str:
    _need(a, "recipient", "subject", "body")
    sent = {"inbox/outbox": "outbox", "sender/recipient": _address(a["recipient"]), "sent_datetime": NOW}
    _MAIL.add(state, {**sent, "subject": a["subject"], "body": a["body"]})
    return "email sent"


def _forward_email(state: State, a: Arguments) -> str:
    _need(a, "email_id", "recipient")
    mail = _MAIL.find(state, a["email_id"])
    return _send_email(state, {**a, "subject": f"FW: {mail['subject']}", "body": mail["body"]})


def _reply_email(state: State, a: Arguments) -> str:
    _need(a, "email_id", "body")
    mail = _MAIL.find(state, a["email_id"])
    return _send_email(state, {**a, "recipient": mail["sender/recipient"], "subject": mail["subject"]})


def _search_records(table: str, shown: int | None) -> "Action":
    """Records that contain what is asked for; `_min` and `_max` at the end of a name bound a date."""

    def fits(row: Row, name: str, value: str) -> bool:
        if name.endswith("_min"):
            return row[name.removesuffix("_min")] >= value
        if name.endswith("_max"):
            return row[name.removesuffix("_max")] <= value
        return value.lower() in row[name].lower()

    def search(state: State, a: Arguments) -> list[Row]:
        if not any(a.values()):
            raise Refused(f"at least one of {', '.join(a)} is needed")
        return [row for row in state[table] if all(fits(row, *wanted) for wanted in a.items() if wanted[1])][:shown]

    return search


def _visitor_by_id(state: State, a: Arguments) -> list[Row]:
    _need(a, "visitor_id")
    return [row for row in state[VISITS] if row["visitor_id"] == a["visitor_id"]]


def _create_plot(state: State, a: Arguments) -> str:
    _need(a, "time_min", "time_max")
    value, kind = (_one_of(name, a[name]) for name in ("value_to_plot", "plot_type"))
    state[PLOTS].append({"file_path": f"plots/{a['time_min']}_{a['time_max']}_{value}_{kind}.png"})
    return state[PLOTS][-1]["file_path"]


def _by_day(what: Callable[[list[Row], Arguments], float]) -> "Action":
    """A figure for each day of visits within the bounds."""

    def count(state: State, a: Arguments) -> dict[str, float]:
        days: dict[str, list[Row]] = {}
        for row in state[VISITS]:
            if (a["time_min"] or "0") <= row["date_of_visit"] <= (a["time_max"] or "9"):
                days.setdefault(row["date_of_visit"], []).append(row)
        return {day: what(days[day], a) for day in sorted(days)}

    return count


def _find_address(state: State, a: Arguments) -> list[str]:
    _need(a, "name")
    return [row["email_address"] for row in state[DIRECTORY] if a["name"].lower() in row["email_address"]]


def _need(a: Arguments, *names: str) -> None:
    for name in names:
        if not a[name]:
            raise Refused(f"{name} is not given")


def _one_of(field: str, value: str) -> str:
    if field in _ALLOWED and value not in _ALLOWED[field].split(", "):
        raise Refused(f"{field} must be one of {_ALLOWED[field]}")
    return value


def _address(value: str) -> str:
    if "@" not in value or "." not in value:
        raise Refused(f"{value!r} is no email address")
    return value


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError:
        raise Refused(f"{text!r} is no date; write YYYY-MM-DD or YYYY-MM-DD HH:MM:SS") from None


def _minutes(text: str) -> timedelta:
    return timedelta(minutes=int(text)) if text.isdecimal() and len(text) < 7 else timedelta()


Action = Callable[[State, Arguments], Any]
_DAYS = "time_min time_max"
_BY_DOMAIN: dict[str, dict[str, tuple[Action, str]]] = {
    CALENDAR: {
        "get_event_information_by_id": (_EVENT.information, "event_id field"),
        "search_events": (_search_events, f"query {_DAYS}"),
        "create_event": (_EVENT.add, " ".join(_EVENT.required)),
        "delete_event": (_EVENT.delete, "event_id"),
        "update_event": (_EVENT.update, "event_id field new_value"),
    },
    EMAIL: {
        "get_email_information_by_id": (_MAIL.information, "email_id field"),
        "search_emails": (_search_emails, "query date_min date_max"),
        "send_email": (_send_email, "recipient subject body"),
        "delete_email": (_MAIL.delete, "email_id"),
        "forward_email": (_forward_email, "email_id recipient"),
        "reply_email": (_reply_email, "email_id body"),
    },
    TASKS: {
        "get_task_information_by_id": (_TASK.information, "task_id field"),
        "search_tasks": (_search_records(TASKS, None), " ".join(_TASK.required)),
        "create_task": (_TASK.add, " ".join(_TASK.required)),
        "delete_task": (_TASK.delete, "task_id"),
        "update_task": (_TASK.update, "task_id field new_value"),
    },
    CUSTOMERS: {
        "search_customers": (
            _search_records(CUSTOMERS, SHOWN),
            "customer_name customer_email product_interest status assigned_to_email last_contact_date_min "
            "last_contact_date_max follow_up_by_min follow_up_by_max",
        ),
        "update_customer": (_CUSTOMER.update, "customer_id field new_value"),
        "add_customer": (
            _CUSTOMER.add,
            "customer_name assigned_to_email status customer_email customer_phone last_contact_date "
            "product_interest notes follow_up_by",
        ),
        "delete_customer": (_CUSTOMER.delete, "customer_id"),
    },
    VISITS: {
        "get_visitor_information_by_id": (_visitor_by_id, "visitor_id"),
        "create_plot": (_create_plot, f"{_DAYS} value_to_plot plot_type"),
        "total_visits_count": (_by_day(lambda rows, a: len(rows)), _DAYS),
        "engaged_users_count": (_by_day(lambda rows, a: sum(r["user_engaged"] == "True" for r in rows)), _DAYS),
        "traffic_source_count": (
            _by_day(lambda rows, a: sum(a["traffic_source"] in ("", r["traffic_source"]) for r in rows)),
            f"{_DAYS} traffic_source",
        ),
        "get_average_session_duration": (
            _by_day(lambda rows, a: round(fmean(float(r["session_duration_seconds"]) for r in rows), 3)),
            _DAYS,
        ),
    },
    DIRECTORY: {"find_email_address": (_find_address, "name")},
}
TOOLS = {
    f"{domain}.{name}": (action, tuple(parameters.split()))
    for domain, tools in _BY_DOMAIN.items()
    for name, (action, parameters) in tools.items()
}
"""Each tool with its parameters."""
