"""Owns the tables of an experiment: trials in canonical form, cells, the frontier, and how numbers are written.

A trial without a verdict whose task has a checker counts as not solved: leaving it out would reward the arm that fails. A
task without a checker has no success at all, which is None and never 0.
"""

import re
from decimal import Decimal
from hashlib import sha256
from typing import Any, NamedTuple

import orjson
import polars as pl
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from benchmarks.statistics import interval
from runtime.budget import BASE_DIMENSIONS
from runtime.errors import ConfigError
from runtime.usage import PICO

POOLED = "all families"
"""Family of the pooled rows. A blank is in it, so no real family has this name."""
SINGLE = "Single(fill)"
"""Topology every other is held against: one agent that repeats and selects until nothing more fits."""
TRIAL_COLUMNS: dict[str, type[pl.DataType]] = {
    **dict.fromkeys(("experiment", "family", "topology", "model", "budget"), pl.String),
    "budget_rank": pl.Int64,
    **{f"cap_{dimension}": pl.Int64 for dimension in BASE_DIMENSIONS},
    "cap_seconds": pl.Float64,
    "task": pl.String,
    "seed": pl.Int64,
    **dict.fromkeys(("address", "status", "reason", "answer"), pl.String),
    "correct": pl.Boolean,
    **dict.fromkeys(BASE_DIMENSIONS, pl.Int64),
    "seconds": pl.Float64,
    **{f"over_{dimension}": pl.Int64 for dimension in BASE_DIMENSIONS},
    **dict.fromkeys(("charged_max_tokens", "charged_max_pico_usd", "slack_tokens", "slack_pico_usd"), pl.Int64),
    "refusals": pl.Int64,
    "deterministic": pl.String,
    "disturbed": pl.Boolean,
    **dict.fromkeys(("prices", "kind"), pl.String),
}
"""Columns of the trials frame, one row per trial, in canonical order."""
CELL = ("family", "budget_rank", "budget", "topology", "model")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SORT_KEY = ("experiment", "family", "budget_rank", "budget", "topology", "model", "task", "seed", "address")


class Arm(NamedTuple):
    """What is compared: a topology with a model."""

    topology: str
    model: str

    def __str__(self) -> str:
        return f"{self.topology} · {self.model}"


def checked(trials: pl.DataFrame) -> pl.DataFrame:
    """The trials, sorted, with exactly the columns and types of `TRIAL_COLUMNS`; further columns are dropped.

    Raises:
        ConfigError: a column is missing, or there is no trial.
    """
    missing = [name for name in TRIAL_COLUMNS if name not in trials.columns]
    if missing:
        raise ConfigError(
            f"no table without the columns of trials; missing: {', '.join(missing)}; what another version of Ostrom wrote "
            "is written anew by the same `ostrom sweep` with --fork"
        )
    if trials.is_empty():
        raise ConfigError("no table without trials; there is none")
    typed = trials.select(pl.col(name).cast(kind) for name, kind in TRIAL_COLUMNS.items())
    return typed.sort(_SORT_KEY, nulls_last=True)


def canonical(trials: pl.DataFrame) -> pl.DataFrame:
    """The checked trials without anything a clock, a host or a process left in them.

    `seconds` goes too: it is wall-clock time in live runs. So does `refusals`, which says how a run came to its end and not
    what came out: digests that were noted before it was counted still name the same trials.
    """
    return checked(trials).drop("seconds", "refusals")


def canonical_sha256(trials: pl.DataFrame) -> str:
    """Digest of the canonical table, 64 hex digits; equal exactly when the canonical tables are."""
    rows = canonical(trials)
    # Rows as JSON and not as Parquet or Arrow, whose bytes change with the version of the library that writes them.
    return sha256(orjson.dumps([rows.columns, rows.rows()])).hexdigest()


def scored(trials: pl.DataFrame) -> pl.DataFrame:
    """The checked trials, ready for statistics.

    Added are `solved` (None where the task has no checker), `unspent` (share left of the cap that came nearest to its end;
    None without caps), `over` (whether any limit was passed), `cluster` (the task, apart from tasks of the same name in
    other families), and a second copy of all rows as the pooled family where there is more than one family.
    """
    has_checker = pl.col("correct").is_not_null().any().over("family", "task")
    used = [pl.when(pl.col(f"cap_{name}") > 0).then(pl.col(name) / pl.col(f"cap_{name}")) for name in BASE_DIMENSIONS]
    rows = checked(trials).with_columns(
        solved=pl.when(has_checker).then(pl.col("correct").fill_null(value=False)),
        unspent=(1 - pl.max_horizontal(used)).clip(lower_bound=0.0),
        over=pl.max_horizontal(f"over_{name}" for name in BASE_DIMENSIONS) > 0,
        cluster=pl.concat_str("family", "task", separator="\x1f"),
    )
    if rows["family"].n_unique() == 1:
        return rows
    return pl.concat([rows, rows.with_columns(family=pl.lit(POOLED))])


def cells(trials: pl.DataFrame) -> pl.DataFrame:
    """Summarise the trials: one row per family × budget × topology × model.

    Rows come by family (the pooled ones last, if there are several families), budget, topology (`Single(fill)` first, sizes
    in numerical order) and model. `success` with `low` and `high` is the mean of `solved` with its 95 % interval, clustered
    by task. Spend is in dollars and tokens a trial; `refused`, `exhausted`, `deadline`, `failed` (cancelled included) and
    `unspent` are shares; `over_trials` counts trials that passed any limit. A trial is refused where the budget did not cover
    something that was asked of an agent: whether it then ends exhausted hangs on what its topology does without that reply.
    """
    rows = scored(trials)
    facts = rows.group_by(CELL).agg(
        pl.len().alias("n"),
        pl.col("cluster").n_unique().alias("tasks"),
        (pl.col("pico_usd").mean() / PICO).alias("mean_usd"),
        (pl.col("pico_usd").median() / PICO).alias("median_usd"),
        pl.col("tokens").mean().alias("mean_tokens"),
        pl.col("tokens").median().alias("median_tokens"),
        (pl.col("refusals") > 0).mean().alias("refused"),
        (pl.col("status") == "exhausted").mean().alias("exhausted"),
        (pl.col("status") == "deadline").mean().alias("deadline"),
        pl.col("status").is_in(["failed", "cancelled"]).mean().alias("failed"),
        pl.col("over").sum().alias("over_trials"),
        (pl.col("over_pico_usd").max() / PICO).alias("over_usd_max"),
        (pl.col("over_pico_usd").sum() / PICO).alias("over_usd_total"),
        pl.col("over_tokens").max().alias("over_tokens_max"),
        pl.col("over_tokens").sum().alias("over_tokens_total"),
        pl.col("unspent").mean(),
    )
    found = []
    for key, group in rows.filter(pl.col("solved").is_not_null()).group_by(CELL):
        seen = interval(group["solved"].to_numpy(), group["cluster"].to_list())
        found.append((*key, seen.mean, seen.low, seen.high))
    bounds = dict.fromkeys(("success", "low", "high"), pl.Float64)
    intervals = pl.DataFrame(found, schema={**{name: facts.schema[name] for name in CELL}, **bounds}, orient="row")
    joined = facts.join(intervals, on=CELL, how="left")
    return in_order(joined.select(*CELL, "n", "tasks", *bounds, pl.exclude(*CELL, "n", "tasks", *bounds)))


def frontier(cells: pl.DataFrame) -> pl.DataFrame:
    """The points of the cost–quality plot, and which of them no other point beats.

    Columns: family, topology, model, budget_rank, budget, mean_usd, mean_tokens, success, low, high and `efficient`: no
    other cell of the family has at least this success for less, or more success for at most this spend, in dollars, or in
    tokens where no cell of the family cost anything. Ties stay efficient. Cells without success are left out.
    """
    points = cells.filter(pl.col("success").is_not_null()).with_row_index("place")
    spend = pl.when(pl.col("mean_usd").max().over("family") > 0).then("mean_usd").otherwise("mean_tokens")
    other = points.select("family", spend.alias("its_spend"), its_success="success")
    beaten = (
        points.with_columns(spend=spend)
        .join(other, on="family")
        .filter(
            (pl.col("its_spend") <= pl.col("spend"))
            & (pl.col("its_success") >= pl.col("success"))
            & ((pl.col("its_spend") < pl.col("spend")) | (pl.col("its_success") > pl.col("success")))
        )["place"]
    )
    return points.select(
        *("family", "topology", "model", "budget_rank", "budget", "mean_usd", "mean_tokens", "success", "low", "high"),
        ~pl.col("place").is_in(beaten.unique().to_list()).alias("efficient"),
    )


def in_order(rows: pl.DataFrame) -> pl.DataFrame:
    """Sort rows as people read them: family (pooled last), budget, `Single(fill)` first, Star(2) before Star(16), model."""

    def place(row: tuple[str, int, str, str, str]) -> tuple[object, ...]:
        family, budget_rank, budget, topology, model = row
        sizes = tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", topology))
        return family == POOLED, family, budget_rank, budget, topology != SINGLE, sizes, model

    order = sorted(range(rows.height), key=[place(row) for row in rows.select(CELL).iter_rows()].__getitem__)
    return rows[order]


def terminal_table(cells: pl.DataFrame, label: str, width: int = 120) -> RenderableType:
    """Write the cells for a terminal: a table for each family and budget.

    Args:
        cells: what `cells` returned. The best success of each table is bold.
        label: what the figures rest on, such as "simulated, matched"; it stands in every title.
        width: columns of the terminal. Where it is too narrow for all, tokens and late/failed are left out whole, since a
            terminal would cut figures in the middle. Of refused and exhausted only the first, which means the same in all
            arms, has room.
    """
    names = {name: max(map(len, cells[name])) for name in ("topology", "model")}
    figures = {"success [95 %]": 17, "$": 9, "tokens": 7, "unspent": 7, "refused": 7, "late/failed": 11, "over": 4}
    if sum(names.values()) + sum(figures.values()) + len(names | figures) > width:
        figures = {name: wide for name, wide in figures.items() if name not in {"tokens", "late/failed"}}
    tables = []
    for (family, budget), group in cells.group_by("family", "budget", maintain_order=True):
        title = Text(plain(f"{family}, budget {budget} a run ({label})"), style="bold")
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        # Equal widths in all tables, so that the eye finds a column again.
        for name, wide in names.items():
            table.add_column(name, no_wrap=True, min_width=wide)
        for name, wide in figures.items():
            table.add_column(name, justify="right", no_wrap=True, min_width=wide)
        best = group["success"].max()
        for row in group.rows(named=True):
            style = "bold" if best is not None and row["success"] == best else ""
            told = [plain(row["topology"]), plain(row["model"]), *map(_figures(row).__getitem__, figures)]
            table.add_row(*(Text(text, style=style) for text in told))
        tables.append(table)
    return Group(*tables)


def _figures(row: dict[str, Any]) -> dict[str, str]:
    return {
        "success [95 %]": success(row["success"], row["low"], row["high"]),
        "$": dollars(row["mean_usd"]),
        "tokens": count(row["mean_tokens"]),
        "unspent": percent(row["unspent"]),
        "refused": percent(row["refused"]),
        "late/failed": percent(row["deadline"] + row["failed"]),
        "over": count(row["over_trials"]),
    }


def plain(text: str) -> str:
    """Text on one line without control characters, so that what a model wrote cannot steer a terminal."""
    return _CONTROL.sub("", text.replace("\n", " "))


def rate(value: float | None) -> str:
    """A share as `.62`, `1.00` or `–` when unknown."""
    return "–" if value is None else f"{value:.2f}".removeprefix("0")


def success(value: float | None, low: float | None, high: float | None) -> str:
    """A share with its interval, as `.62 [.55, .69]`."""
    return rate(value) if value is None else f"{rate(value)} [{rate(low)}, {rate(high)}]"


def signed(value: float | None) -> str:
    """A difference of shares with its sign, as `+.07` or `−.12`."""
    return "–" if value is None else f"{'−' if round(value, 2) < 0 else '+'}{rate(abs(value))}"


def dollars(value: float) -> str:
    """Dollars with three digits and no exponent, as `$0.000310`; from one dollar on with cents; `$0`."""
    if value >= 1:
        return f"${value:,.2f}"
    return f"${Decimal(f'{value:.2e}'):f}" if value else "$0"


def percent(value: float | None) -> str:
    """A share as `12 %`, `<1 %`, `0 %`, or `–` when unknown."""
    if value is None:
        return "–"
    return "<1 %" if 0 < value < 0.005 else f"{value:.0%}".replace("%", " %")


def count(value: float) -> str:
    """A number of things, rounded, with separators."""
    return f"{value:,.0f}"
