"""Owns the figures of a report: SVG text, the same bytes for the same cells, without any state shared with pyplot.

Colour says topology, marker and dash say model, in all figures alike. The colours can be told apart by people who do not
see all of them; the yellow of the set is left out, because it fades on white.

Source: M. Okabe, K. Ito, "Color Universal Design: How to Make Figures and Presentations That Are Friendly to Colorblind
    People", Jikei University and University of Tokyo, 2008.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from io import StringIO
from itertools import cycle, islice, pairwise
from textwrap import wrap
from typing import Any

import polars as pl
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.tables import SINGLE, frontier, plain

_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", "--", ":", "-.")
_GREY = "#8a8a8a"
_WIDTH_IN = 11.0
_TICK_PT = 9.0
_BESIDE = 1.3
"""A log axis of spend goes on by this factor on either side."""
_MODELS_A_ROW = 3
_TOPOLOGIES_A_ROW = 5
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "xtick.labelsize": _TICK_PT,
    "ytick.labelsize": _TICK_PT,
    "axes.titlesize": 10.5,
    "axes.labelsize": 9.5,
    "axes.labelcolor": "#444444",
    "legend.title_fontsize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    # A budget such as "$1 or $2" is text and no formula between dollar signs.
    "text.parse_math": False,
    # Text stays text: it can be searched and copied, and a reader's own font is used where ours is missing.
    "svg.fonttype": "none",
}


def cost_quality(cells: pl.DataFrame, label: str, *, joined: bool = True) -> dict[str, str]:
    """Draw success against mean realised spend: a figure for each family, a panel for each model.

    Spend is on a log axis, in dollars, or in tokens where the family cost nothing. The grey stairs are what the best arm
    of the family reached for at most that spend, the same in all panels.

    Args:
        cells: what `tables.cells` returned. Cells without success or without spend are not drawn.
        label: what the figures rest on; it stands in every title.
        joined: whether a line joins the budgets of an arm. Recorded runs were not made at a budget, so theirs are points.

    Returns:
        SVG text by family, in the order of the cells.
    """
    points = frontier(cells)
    models, figures = list(dict.fromkeys(cells["model"])), {}
    for (family,), group in points.group_by("family", maintain_order=True):
        unit = "mean_usd" if (group["mean_usd"] > 0).any() else "mean_tokens"
        drawn = group.filter(pl.col(unit) > 0)
        if drawn.is_empty():
            continue
        present = [model for model in models if model in drawn["model"]]
        with _figure(f"{family}: success against realised spend ({label})", len(present), _MODELS_A_ROW, 3.3) as sheet:
            figure, panels = sheet
            for panel, model in zip(panels, present, strict=True):
                panel.set_title(_fitting(model, _panel_pt(len(present), _MODELS_A_ROW)))
                _spend_panel(panel, drawn, unit, model, _Look(cells), joined)
            _spend_axes(panels, drawn[unit].to_list(), unit)
            handles = _Look(cells).topology_handles(joined)
            if joined:
                handles.append(Line2D([], [], color=_GREY, linewidth=3, alpha=0.45, label="best arm up to that spend"))
            _legend(figure, handles, "")
            figures[str(family)] = _svg(figure, f"spend {family}")
    return figures


def by_budget(cells: pl.DataFrame, label: str) -> dict[str, str]:
    """Draw success by budget: a figure for each family, a small panel for each topology, `Single(fill)` in grey in all.

    Args:
        cells: what `tables.cells` returned. Cells without success are not drawn.
        label: what the figures rest on; it stands in every title.

    Returns:
        SVG text by family, in the order of the cells.
    """
    look, figures = _Look(cells), {}
    for (family,), group in cells.drop_nulls("success").group_by("family", maintain_order=True):
        budgets = group.select("budget_rank", "budget").unique().sort("budget_rank")["budget"].to_list()
        present = list(dict.fromkeys(group["topology"]))
        with _figure(f"{family}: success by budget ({label})", len(present), _TOPOLOGIES_A_ROW, 2.5) as (
            figure,
            panels,
        ):
            for panel, topology in zip(panels, present, strict=True):
                panel.set_title(_fitting(topology, _panel_pt(len(present), _TOPOLOGIES_A_ROW)))
                for name in dict.fromkeys((SINGLE, topology)):
                    for (model,), line in group.filter(topology=name).group_by("model", maintain_order=True):
                        style = look.line(name, str(model)) | ({"color": _GREY} if name != topology else {})
                        _line(
                            panel, [budgets.index(budget) for budget in line["budget"]], line, style, name == topology
                        )
            _legend(figure, look.model_handles(), _budget_axis(panels, budgets))
            figures[str(family)] = _svg(figure, f"budget {family}")
    return figures


class _Look:
    """Gives each topology its colour and each model its marker and dash."""

    def __init__(self, cells: pl.DataFrame) -> None:
        self._topologies = list(dict.fromkeys(cells["topology"]))
        self._models = list(dict.fromkeys(cells["model"]))
        teams = [topology for topology in self._topologies if topology != SINGLE]
        self._colours = dict(zip(teams, cycle(_COLOURS), strict=False)) | {SINGLE: "#000000"}
        # From the seventh team on colours come again, with hollow markers.
        self._hollow = set(teams[len(_COLOURS) :])

    def line(self, topology: str, model: str) -> dict[str, Any]:
        place = self._models.index(model)
        look = {"color": self._colours[topology], "marker": _MARKERS[place % len(_MARKERS)]}
        look["linestyle"] = _DASHES[place % len(_DASHES)]
        return look | ({"markerfacecolor": "white"} if topology in self._hollow else {})

    def topology_handles(self, joined: bool) -> list[Line2D]:
        looks = [(name, self.line(name, self._models[0])) for name in self._topologies]
        fixed: dict[str, Any] = {"linestyle": "-" if joined else "none", "marker": "o"}
        return [Line2D([], [], label=plain(name), **(look | fixed)) for name, look in looks]

    def model_handles(self) -> list[Line2D]:
        looks = [(name, self.line(self._topologies[0], name)) for name in self._models]
        dark: dict[str, Any] = {"color": "#333333"}
        handles = [Line2D([], [], label=plain(name), **(look | dark)) for name, look in looks]
        return [*handles, Line2D([], [], label=f"{SINGLE} of the same model", color=_GREY)]


@contextmanager
def _figure(title: str, n_panels: int, a_row: int, height_in: float) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """A figure of equal panels with one share axis, 0 to 1, under our style."""
    columns = min(n_panels, a_row)
    rows = math.ceil(n_panels / a_row)
    with rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_IN, 0.7 + rows * height_in), layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        panels = list(islice(grid.flat, n_panels))
        for empty in islice(grid.flat, n_panels, None):
            empty.remove()
        for panel in panels:
            panel.set_ylim(-0.03, 1.03)
            panel.tick_params(length=0, labelbottom=True)
        figure.suptitle(plain(title), x=0.01, ha="left", fontsize=12)
        figure.supylabel("success", fontsize=10)
        yield figure, panels


def _spend_panel(panel: Axes, points: pl.DataFrame, unit: str, model: str, look: _Look, joined: bool) -> None:
    if joined:
        best = points.filter("efficient").sort(unit)
        # Who has more to spend than the dearest of them reaches as much with it.
        spend, reached = [*best[unit], max(points[unit]) * _BESIDE], [*best["success"], best["success"][-1]]
        panel.plot(spend, reached, color=_GREY, linewidth=4, alpha=0.3, drawstyle="steps-post", zorder=1)
    for (topology,), line in points.filter(model=model).group_by("topology", maintain_order=True):
        style = look.line(str(topology), model) | ({} if joined else {"linestyle": "none"})
        _line(panel, line[unit].to_list(), line, style, whiskers=True)


def _line(panel: Axes, x: Sequence[float], points: pl.DataFrame, style: dict[str, Any], whiskers: bool) -> None:
    if whiskers:
        panel.vlines(x, points["low"], points["high"], colors=style["color"], linewidth=1, alpha=0.4, zorder=2)
    if style["color"] == _GREY:
        style = style | {"alpha": 0.6, "linewidth": 1.1, "markersize": 3.5}
    panel.plot(x, points["success"], zorder=3, **style)


def _spend_axes(panels: Sequence[Axes], spend: Sequence[float], unit: str) -> None:
    low, high = min(spend) / _BESIDE, max(spend) * _BESIDE
    ticks = _ticks(low, high, _panel_pt(len(panels), _MODELS_A_ROW), unit)
    for panel in panels:
        panel.set_xscale("log")
        panel.set_xlim(low, high)
        panel.set_xticks(list(ticks), list(ticks.values()))
        panel.set_xticks([], minor=True)
        panel.set_xlabel("mean dollars a run" if unit == "mean_usd" else "mean tokens a run")


def _budget_axis(panels: Sequence[Axes], budgets: Sequence[str]) -> str:
    """Write the budgets below the panels, or numbers where they would touch; return what the numbers stand for."""
    texts, meaning = [plain(budget) for budget in budgets], ""
    if (max(map(_width_pt, texts)) + 6) * len(texts) > _panel_pt(len(panels), _TOPOLOGIES_A_ROW):
        listed = [f"{place}: {text}" for place, text in enumerate(texts, 1)]
        meaning, texts = f"budgets  {';  '.join(listed)}", [str(place) for place in range(1, len(texts) + 1)]
    for panel in panels:
        panel.set_xticks(range(len(texts)), texts)
        panel.set_xlim(-0.4, len(texts) - 0.6)
        panel.set_xlabel("budget a run")
    return "\n".join(wrap(meaning, 120))


def _legend(figure: Figure, handles: Sequence[Line2D], title: str) -> None:
    for handle in handles:
        handle.set_label(_fitting(str(handle.get_label()), 200))
    widths = [_width_pt(str(handle.get_label())) + 50 for handle in handles]
    columns = len(handles) if sum(widths) < 72 * _WIDTH_IN else int(72 * _WIDTH_IN / max(widths))
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, title=title or None, alignment="left")


def _panel_pt(n_panels: int, a_row: int) -> float:
    """Width of one panel: what the axis leaves, without the gap to the next."""
    return (72 * _WIDTH_IN - 50) / min(n_panels, a_row) - 12


def _fitting(text: str, width_pt: float) -> str:
    """Text on one line, cut where it would be wider than this."""
    line, room = plain(text), int(width_pt / _width_pt("x"))
    return line if len(line) <= room else f"{line[: room - 1]}…"


def _ticks(low: float, high: float, width_pt: float, unit: str) -> dict[float, str]:
    """Round values in the range and their texts: the finest series whose texts do not touch on an axis of this width."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    a_decade = width_pt / math.log10(high / low)
    for steps in (range(1, 10), (1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1, 3), (1,)):
        values = [float(f"{step}e{decade}") for decade in decades for step in steps]
        ticks = {
            value: f"${Decimal(str(value)):f}" if unit == "mean_usd" else f"{value:,g}"
            for value in values
            if low <= value <= high
        }
        gaps = [a_decade * math.log10(b / a) for a, b in pairwise(ticks)]
        if all(gap > _width_pt(text) + 6 for gap, text in zip(gaps, ticks.values(), strict=False)):
            return ticks
    fewer = math.ceil(len(ticks) * (max(map(_width_pt, ticks.values())) + 6) / width_pt)
    return dict(islice(ticks.items(), None, None, fewer))


def _width_pt(text: str) -> float:
    # DejaVu Sans, the widest of the usual fonts: a digit has .64 of the size, a text with points and thin letters .6.
    return 0.6 * _TICK_PT * len(text)


def _svg(figure: Figure, salt: str) -> str:
    text = StringIO()
    # Ids inside are hashes; the salt makes them the same in every run and different between figures of one page.
    with rc_context({"svg.hashsalt": salt}):
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return text.getvalue().partition("<svg")[1] + text.getvalue().partition("<svg")[2]
