"""Owns the report: one HTML file that says what was asked, what came out, whether it was matched, and how to run it again.

The file needs nothing beside it: no script, no font, no picture from elsewhere, and its content policy forbids them. What
models and users wrote enters as text; only SVG that Ostrom drew enters as markup, and is refused if it could act.
"""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any, TypedDict
from xml.etree import ElementTree

import polars as pl
from jinja2 import Environment, StrictUndefined

from benchmarks.audit import TOLERANCE, Match, audit
from benchmarks.comparisons import compare_with_single, headline
from benchmarks.metrics.shown import shown
from benchmarks.plots import by_budget, cost_quality
from benchmarks.tables import (
    POOLED,
    SINGLE,
    canonical_sha256,
    cells,
    count,
    dollars,
    percent,
    plain,
    rate,
    signed,
    success,
)
from runtime.errors import InternalError

_ACTING = {"script", "foreignObject", "iframe", "image", "a", "set", "animate", "animateTransform", "animateMotion"}
"""Elements of SVG that run, load, lead away or change others; a drawing needs none."""
_REASONS = 8


class Manifest(TypedDict):
    """What a report says about the origin of its trials."""

    name: str
    """Of the experiment."""
    created: str
    """Date and time as they are to be read."""
    revision: str
    """Of the code."""
    versions: Mapping[str, str]
    """Package to version."""
    priced_by: Mapping[str, str]
    """Model to where its prices are from, with a date or a version."""
    match: Match
    kind: str
    """What the figures rest on: simulated, "recorded, not matched" or live."""
    command: str
    """Runs the same experiment again."""
    seeds: Sequence[int]
    planned: int
    """Trials the experiment has."""
    finished: int
    """Trials that have a result."""
    floored: Mapping[str, int]
    """Model to calls charged by our own count (see `metrics.runs.floored`); without those that have none."""
    sha256: str
    """Of the canonical table, as it was when the trials were written."""


def write_report(
    path: Path,
    trials: pl.DataFrame,
    manifest: Manifest,
    drawings: Mapping[str, str] | None = None,
    teams: pl.DataFrame | None = None,
    sequences: Mapping[str, str] | None = None,
) -> None:
    """Write the report of an experiment.

    Args:
        path: the HTML file; an existing one is replaced.
        trials: see `tables.TRIAL_COLUMNS`.
        manifest: where the trials come from.
        drawings: SVG text by topology.
        teams: what the teams did, as `metrics.arms.arm_metrics` gives it.
        sequences: SVG text of an example run, by topology.

    Raises:
        ConfigError: the trials lack columns, or there are none.
        InternalError: an SVG contains something that could act.
    """
    path.write_text(render(trials, manifest, drawings or {}, teams, sequences or {}), encoding="utf-8")


def render(
    trials: pl.DataFrame,
    manifest: Manifest,
    drawings: Mapping[str, str],
    teams: pl.DataFrame | None = None,
    sequences: Mapping[str, str] | None = None,
) -> str:
    """The report as text; see `write_report`."""
    harmless = {name: _harmless(text) for name, text in drawings.items()}
    table, seen = cells(trials), audit(trials, manifest["match"])
    label = seen.label(manifest["kind"])
    best = headline(trials, table).rows(named=True)
    figures = [*cost_quality(table, label, joined=manifest["match"] != "none").values()]
    if table["budget"].n_unique() > 1:
        figures += by_budget(table, label).values()
    environment = Environment(
        autoescape=True, finalize=_shown, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters |= {write.__name__: write for write in (success, rate, signed, percent, dollars, count)}
    template = environment.from_string(files("benchmarks").joinpath("report.html.j2").read_text("utf-8"))
    return template.render(
        manifest=manifest,
        label=label,
        question=_question(trials, manifest),
        answer=_answer(best, manifest["match"]),
        best=best,
        drawings=harmless,
        sequences={name: _harmless(text) for name, text in (sequences or {}).items()},
        did=None if teams is None else shown(trials, teams),
        figures=figures,
        cells=_sections(table),
        compared=_sections(compare_with_single(trials)),
        audit=seen,
        arms=[
            (f"{family}, budget {budget} a run", list(rows))
            for (family, budget), rows in groupby(seen.arms, lambda facts: (facts.family, facts.budget))
        ],
        tolerance=TOLERANCE,
        single=SINGLE,
        pooled=POOLED,
        ended=_ended(trials),
        sha256=canonical_sha256(trials),
        facts=_facts(trials, manifest),
    )


def _shown(value: object) -> object:
    """Clean what the template shows, whatever it is, unless it is markup already."""
    return value if hasattr(value, "__html__") else plain(str(value))


def _harmless(svg: str) -> str:
    """The SVG as it is, if nothing in it can act."""
    try:
        elements = list(ElementTree.fromstring(svg).iter())
    except ElementTree.ParseError as error:
        raise InternalError(f"a drawing is no SVG: {error}") from None
    if _local(elements[0].tag) != "svg":
        raise InternalError(f"a drawing is no SVG but {elements[0].tag!r}")
    for element in elements:
        acting = [tag for tag in (_local(element.tag),) if tag in _ACTING]
        acting += [name for name in map(_local, element.keys()) if name.lower().startswith("on")]
        acting += [name for name, value in element.items() if _local(name) == "href" and not value.startswith("#")]
        if acting:
            raise InternalError(f"a drawing contains {acting[0]!r}, which a picture does not need")
    return svg


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _question(trials: pl.DataFrame, manifest: Manifest) -> str:
    n = {name: trials[name].n_unique() for name in ("topology", "model", "budget", "family", "seed")}
    n_arms, n_tasks = trials.select("topology", "model").n_unique(), trials.select("family", "task").n_unique()
    asked = {
        "cap": "Which team solves most tasks under the same budget?",
        "spend": "Which team solves most tasks for the same money spent?",
        "none": "What did these recorded runs solve, and what did they spend?",
    }[manifest["match"]]
    return (
        f"{asked} {n_arms} arms ({n['topology']} topologies, {n['model']} models), {_many(n['budget'], 'budget')}, "
        f"{_many(n_tasks, 'task')} from {_many(n['family'], 'family')}, {_many(n['seed'], 'seed')}: {trials.height:,} trials."
    )


def _many(n: int, what: str) -> str:
    plural = f"{what.removesuffix('y')}ies" if what.endswith("y") else f"{what}s"
    return f"{n} {what if n == 1 else plural}"


def _answer(best: Sequence[Mapping[str, Any]], match: Match) -> str:
    """Two sentences: the best arm at the largest budget over all families, and what it is worth beside a single agent."""
    if not best:
        return "No task has a checker, so there is no success to compare. What was spent stands in the tables."
    row = max(best, key=lambda row: (row["family"] == POOLED, row["budget_rank"]))
    where = "" if row["family"] != POOLED else " over all families"
    arm = f"{row['topology']} with {row['model']}"
    seen = success(row["success"], row["low"], row["high"])
    if match == "none":
        return f"{arm} solved most{where}: {seen}. The runs had no common budget, so this does not say which is worth more."
    first = f"At {row['budget']} a run, {arm} solved most{where}: {seen}."
    if row["single_model"] is None:
        return f"{first} There is no {SINGLE} arm, so what the same money buys without a team is not known."
    if row["topology"] == SINGLE:
        return f"{first} No team solved more than that single agent."
    gain = f"{signed(row['difference'])} [{signed(row['difference_low'])}, {signed(row['difference_high'])}]"
    rival = (
        f"{SINGLE} with {row['single_model']}, one agent that spends the whole budget on repeated answers and a vote"
    )
    if row["beats"]:
        return f"{first} That is {gain} above {rival}; more than chance, also after picking the best of {row['picked_from']}."
    return f"{first} Against {rival}, the difference of {gain} can be chance."


def _sections(table: pl.DataFrame) -> list[tuple[str, list[tuple[str, list[dict[str, Any]]]]]]:
    """Rows by family and, in it, by budget."""
    return [
        (
            str(family),
            [(str(key[0]), part.rows(named=True)) for key, part in group.group_by("budget", maintain_order=True)],
        )
        for (family,), group in table.group_by("family", maintain_order=True)
    ]


def _ended(trials: pl.DataFrame) -> list[dict[str, Any]]:
    """How trials ended that were not completed: the most frequent reasons, then all others in one row."""
    rows = trials.filter(pl.col("status") != "completed").group_by("status", "reason").len("trials")
    rows = rows.sort("trials", "status", "reason", descending=[True, False, False])
    shown, rest = rows.head(_REASONS).rows(named=True), rows.slice(_REASONS)
    if rest.is_empty():
        return shown
    return [*shown, {"status": "", "reason": f"{rest.height} other reasons", "trials": int(rest["trials"].sum())}]


def _facts(trials: pl.DataFrame, manifest: Manifest) -> dict[str, str]:
    counts = dict(trials.group_by("deterministic").len().sort("deterministic").iter_rows())
    return {
        "made": manifest["created"],
        "code": manifest["revision"],
        "versions": ", ".join(f"{name} {number}" for name, number in manifest["versions"].items()),
        "prices from": "; ".join(f"{name}: {source}" for name, source in manifest["priced_by"].items()),
        "kind": manifest["kind"],
        "matched by": manifest["match"],
        "seeds": ", ".join(map(str, manifest["seeds"])),
        "trials": f"{manifest['finished']:,} finished of {manifest['planned']:,} planned",
        "reproducible": ", ".join(f"{n:,} trials {name}" for name, n in counts.items()),
        "disturbed": f"{trials['disturbed'].sum():,} trials",
        "price tables": ", ".join(sorted(trials["prices"].unique().to_list())),
    }
