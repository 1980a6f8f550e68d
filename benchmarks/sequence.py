"""Owns the picture of a run: a lifeline per seat, a bar per call with its tokens, an arrow per mail, in the order of time.

Rows are events and not a scale: what happened at one instant is in one row, and the clock stands at the left. It is drawn from
the journal, so a call that the budget refused before it was made has no place in it; their number is told below.
"""

from typing import NamedTuple

from benchmarks.marks import BACK, INK, LINE, PALE, SOFT, WARN, head, natural, panel, safe, short, tail
from benchmarks.metrics.trace import trace_of
from runtime.journal import Attempt
from runtime.result import RunResult

_LEFT, _TOP, _SEAT, _ROW, _BAR = 78, 64, 158, 21, 12
_FILLS = {"work": "#9ecae8", "bid": "#f3d9a4", "vote": "#e3c9e8", "tool": "#b9e0c4", "summary": "#d8d2f0"}
_SIMULATED = "sim/"
_SAID = 160
_HALO = 'stroke="#ffffff" stroke-width="3" paint-order="stroke"'
"""Keeps a label readable where an arrow crosses it."""

_Row = tuple[float, int]
"""A time, and how many calls that took no time had to come before at this same time."""


class _Bar(NamedTuple):
    x: float
    top: float
    bottom: float


def sequence(result: RunResult, most: int = 40, most_seats: int = 10) -> str:
    """An SVG of the run's messages.

    Args:
        result: a finished run; what agents said and are called enters as text only.
        most: calls to show; of a longer run the first of them, with a note.
        most_seats: lifelines to show, in the order in which the seats were first asked.
    """
    trace = trace_of(result)
    shown, rows = _rows(trace.attempts, trace.before, most)
    began = {trace.attempts[i].seat: trace.attempts[i].began_s for i in reversed(shown)}
    seats = sorted(began, key=lambda seat: (began[seat], natural(seat)))[:most_seats]
    left_out = [a for a in result.attempts if a.state in {"released", "voided"}]
    shown = [i for i in shown if trace.attempts[i].seat in seats]
    places = {row: _TOP + 14 + n * _ROW for n, row in enumerate(sorted({row for i in shown for row in rows[i]}))}
    bars = {i: _bar(trace.attempts[i], seats, [places[row] for row in rows[i]]) for i in shown}
    notes = _notes(result, left_out, len(trace.attempts) - len(shown))
    bottom = max([_TOP, *places.values()]) + 2 * _ROW
    width, height = _LEFT + max(len(seats), 2) * _SEAT, bottom + 18 * len(notes) + 8
    parts = [panel(width, height), *_titles(result, width)]
    parts += [_lifeline(seat, _LEFT + n * _SEAT + _SEAT / 3, bottom) for n, seat in enumerate(seats)]
    clocks = {row[0]: y for row, y in sorted(places.items(), reverse=True)}
    parts += [_text(10, y + 4, f"{time:,.1f} s", SOFT) for time, y in clocks.items()]
    for i in shown:
        parts += [_arrow(bars[j], bars[i]) for j in trace.before[i] if j in bars and bars[j].x != bars[i].x]
    parts += [_call(trace.attempts[i], bars[i]) for i in shown]
    parts += [_text(10, bottom + 14 + 18 * n, note, WARN) for n, note in enumerate(notes)]
    label = safe(f"messages of the run {result.run_id}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:g}" width="{width}" height="{height:g}" '
        f'font-family="sans-serif" font-size="11" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    )


def _rows(
    attempts: tuple[Attempt, ...], before: tuple[tuple[int, ...], ...], most: int
) -> tuple[list[int], list[tuple[_Row, _Row]]]:
    """The calls to show, and the rows in which each call begins and ends."""
    late: list[int] = []
    rows: list[tuple[_Row, _Row]] = []
    for attempt, waited in zip(attempts, before, strict=True):
        # Models that take no time answer a whole chain at one instant; its order must show all the same.
        same = [late[j] + 1 for j in waited if attempts[j].began_s == attempts[j].ended_s == attempt.began_s]
        late.append(max(same, default=0))
        ends = (attempt.ended_s, late[-1] if attempt.ended_s == attempt.began_s else 0)
        rows.append(((attempt.began_s, late[-1]), ends))
    return list(range(min(most, len(attempts)))), rows


def _bar(attempt: Attempt, seats: list[str], between: list[float]) -> _Bar:
    top, bottom = between
    x = _LEFT + seats.index(attempt.seat) * _SEAT + _SEAT / 3
    return _Bar(x, top, max(bottom, top + 10))


def _notes(result: RunResult, released: list[Attempt], hidden: int) -> list[str]:
    refusals = int(result.metrics.get("refusals", 0))
    notes = []
    if hidden > 0:
        notes.append(f"{hidden:,} more calls are not shown")
    if refusals:
        notes.append(f"✕ {refusals:,} calls were refused by the budget before they were made")
    if released:
        seats = ", ".join(dict.fromkeys(tail(a.seat) for a in released[:5]))
        notes.append(f"✕ {len(released):,} calls failed at no cost ({seats})")
    return notes


def _titles(result: RunResult, width: float) -> list[str]:
    simulated = any(a.model.startswith(_SIMULATED) for a in result.attempts)
    clock = "virtual time" if result.virtual else "live"
    said = f"{short(result.run_id, 48)}: {result.status} ({'simulated, ' if simulated else ''}{clock})"
    total = result.spend.total
    below = f"answer {short(result.answer or '–', 40)}; {total.tokens:,} tokens, {total.calls:,} calls"
    return [
        f'<text x="10" y="18" font-size="13" font-weight="bold" fill="{INK}">{safe(said)}</text>',
        _text(10, 34, below, SOFT),
    ]


def _lifeline(seat: str, x: float, bottom: float) -> str:
    return (
        f'<line x1="{x:g}" y1="{_TOP}" x2="{x:g}" y2="{bottom:g}" stroke="{LINE}" stroke-dasharray="2 3"/>'
        f'<text x="{x:g}" y="{_TOP - 8}" text-anchor="middle" font-weight="bold" fill="{INK}">{safe(tail(seat))}</text>'
    )


def _call(attempt: Attempt, bar: _Bar) -> str:
    unknown, shrunk = attempt.state == "charged_max", attempt.max_tokens < attempt.wanted_tokens
    edge = WARN if unknown else INK
    fill = _FILLS.get(attempt.kind, PALE)
    said = f"{attempt.kind} by {attempt.model}, {attempt.state}: {short(attempt.reply, _SAID)}"
    # Of a call of unknown usage the bound was charged; of a tool call its units.
    tokens = f"≤ {attempt.output_tokens:,}" if unknown else f"{attempt.input_tokens:,} → {attempt.output_tokens:,}"
    label = f"{attempt.units:,} units" if attempt.kind == "tool" else tokens
    kind = "" if attempt.kind == "work" else f" {short(attempt.kind, 8)}"
    mark = (" ✕" if unknown else "") + (" ▾" if shrunk else "")
    return (
        f'<g><title>{safe(said)}</title><rect x="{bar.x - _BAR / 2:g}" y="{bar.top:g}" width="{_BAR}" '
        f'height="{bar.bottom - bar.top:g}" rx="2" fill="{fill}" stroke="{edge}"/>'
        f"{_text(bar.x + _BAR / 2 + 4, bar.top + 10, label + kind + mark, WARN if unknown else INK)}</g>"
    )


def _arrow(sender: _Bar, reader: _Bar) -> str:
    side = 1 if reader.x > sender.x else -1
    x1, x2 = sender.x + side * _BAR / 2, reader.x - side * (_BAR / 2 + 1)
    y1, y2 = sender.bottom, reader.top + 1
    return (
        f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{BACK}" stroke-width="1.2"/>'
        f"{head(x2, y2, x2 - x1, y2 - y1)}"
    )


def _text(x: float, y: float, text: str, colour: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}" {_HALO}>{safe(text)}</text>'
