"""What the audit promises: every way in which two arms can be unequal is noticed, and nothing else is called one."""

from collections.abc import Callable
from io import StringIO

import polars as pl
import pytest
from rich.console import Console

from benchmarks.audit import Audit, audit, terminal_audit

Make = Callable[..., pl.DataFrame]
STAR = pl.col("topology") == "Star(4)"
FIRST = STAR & (pl.col("task") == "companies-000") & (pl.col("seed") == 0)


@pytest.fixture(scope="module")
def clean(make_trials: Make) -> pl.DataFrame:
    return make_trials(("Single(fill)", "Star(4)", "Chain(3)"), ("small",), ("$0.0004",), ("companies",), 5, 2)


def printed(seen: Audit) -> str:
    console = Console(width=100, record=True, force_terminal=True, color_system=None, file=StringIO())
    console.print(terminal_audit(seen))
    return console.export_text()


def test_equal_arms_are_clean(clean: pl.DataFrame) -> None:
    seen = audit(clean, "cap")

    assert [pair.clean for pair in seen.pairs] == [True] * 3
    assert seen.matched
    assert seen.label("simulated") == "simulated, matched"
    assert "3 of 3 pairs" in printed(seen)


MISMATCHES: dict[str, tuple[dict[str, pl.Expr], str]] = {
    "limit in dollars": ({"cap_pico_usd": pl.when(STAR).then(10**9).otherwise("cap_pico_usd")}, "limits differ"),
    "limit in tokens": ({"cap_tokens": pl.when(STAR).then(10**6)}, "limits differ"),
    "limit in calls": ({"cap_calls": pl.when(STAR).then(50)}, "limits differ"),
    "limit in tool calls": ({"cap_tool_calls": pl.when(STAR).then(31).otherwise(30)}, "limits differ"),
    "deadline": ({"cap_seconds": pl.when(STAR).then(60.0).otherwise(120.0)}, "limits differ"),
    "limits within an arm": ({"cap_calls": pl.when(FIRST).then(50)}, "limits differ"),
    "price table": ({"prices": pl.when(STAR).then(pl.lit("00")).otherwise("prices")}, "price tables differ"),
    "prices within an arm": ({"prices": pl.when(FIRST).then(pl.lit("00")).otherwise("prices")}, "price tables differ"),
    "overspend in tokens": ({"over_tokens": pl.when(FIRST).then(1).otherwise(0)}, "Star(4) · small passed a limit"),
    "overspend in dollars": ({"over_pico_usd": pl.when(FIRST).then(1).otherwise(0)}, "Star(4) · small passed a limit"),
    "overspend in calls": ({"over_calls": pl.when(FIRST).then(1).otherwise(0)}, "Star(4) · small passed a limit"),
    "overspend in tools": ({"over_tool_calls": pl.when(FIRST).then(1).otherwise(0)}, "Star(4) · small passed a limit"),
    "slack": ({"slack_pico_usd": pl.when(STAR).then(4_100_000).otherwise(0)}, "unspent because of the bound"),
    "charged at the bound": ({"charged_max_pico_usd": pl.when(STAR).then(4_100_000).otherwise(0)}, "CHARGED_MAX"),
}


@pytest.mark.parametrize("what", MISMATCHES)
def test_a_mismatch_spoils_exactly_the_pairs_of_its_arm(clean: pl.DataFrame, what: str) -> None:
    change, reason = MISMATCHES[what]
    seen = audit(clean.with_columns(**change), "cap")

    assert [(pair.a.topology, pair.b.topology) for pair in seen.unclean] == [
        ("Single(fill)", "Star(4)"),
        ("Chain(3)", "Star(4)"),
    ]
    assert all(reason in text for pair in seen.unclean for text in pair.reasons)
    assert seen.label("simulated") == "simulated, not matched"


def test_a_missing_and_a_doubled_trial_spoil_the_pairs_of_their_arm(clean: pl.DataFrame) -> None:
    torn = audit(clean.filter(~FIRST), "cap")
    doubled = audit(pl.concat([clean, clean.filter(FIRST)]), "cap")

    assert dict(torn.reasons) == {"Star(4) · small lacks tasks or seeds": 2}
    assert dict(doubled.reasons) == {"Star(4) · small has a task and seed twice": 2}


def test_one_percent_of_slack_or_charged_max_is_still_clean(clean: pl.DataFrame) -> None:
    at_most = pl.when(STAR).then(4_000_000).otherwise(0)

    assert audit(clean.with_columns(slack_pico_usd=at_most, charged_max_pico_usd=at_most), "cap").matched


def test_token_caps_are_judged_in_tokens(clean: pl.DataFrame) -> None:
    by_tokens = clean.with_columns(
        cap_pico_usd=None, cap_tokens=1_000, slack_tokens=pl.when(STAR).then(11).otherwise(0)
    )

    assert len(audit(by_tokens, "cap").unclean) == 2
    assert audit(by_tokens.with_columns(slack_tokens=10), "cap").matched


def test_ends_and_money_left_over_are_reported_and_not_judged(clean: pl.DataFrame) -> None:
    seen = audit(
        clean.with_columns(status=pl.when(STAR).then(pl.lit("exhausted")).otherwise(pl.lit("completed"))), "spend"
    )
    star = next(facts for facts in seen.arms if facts.arm.topology == "Star(4)")

    assert seen.matched
    assert star.exhausted == 1.0
    assert star.unspent is not None
    assert star.unspent > 0.02
    assert star.limits == ("$0.0004, 30 tool calls, 120 s",)


def test_the_budget_bound_an_arm_whose_runs_were_refused_and_completed_all_the_same(clean: pl.DataFrame) -> None:
    """Star asks its verifier after a refusal and is completed; another team ends exhausted where it had no more to ask."""
    ends = pl.when(STAR).then(pl.lit("completed")).otherwise(pl.lit("exhausted"))
    seen = audit(clean.with_columns(status=ends, refusals=pl.lit(2)), "cap")
    lines = printed(seen).splitlines()

    assert {facts.arm.topology: (facts.refused, facts.exhausted) for facts in seen.arms} == {
        "Single(fill)": (1.0, 1.0),
        "Chain(3)": (1.0, 1.0),
        "Star(4)": (1.0, 0.0),
    }
    assert seen.matched
    [head] = [line for line in lines if "bound slack" in line]
    [star] = [line for line in lines if line.lstrip().startswith("Star(4)")]
    assert "refused" in head
    assert "exhausted" not in head
    assert star[: head.index("refused") + len("refused")].endswith("100 %")


def test_what_is_charged_at_the_bound_is_not_settled(clean: pl.DataFrame) -> None:
    star = audit(clean.with_columns(charged_max_pico_usd="pico_usd", charged_max_tokens="tokens"), "cap").arms[-1]

    assert (star.settled_usd, star.settled_tokens) == (0.0, 0.0)


def test_recorded_runs_are_never_matched(clean: pl.DataFrame) -> None:
    seen = audit(clean.with_columns(cap_pico_usd=None, cap_tool_calls=None, cap_seconds=None), "none")

    assert not seen.matched
    assert len(seen.unclean) == 3
    assert seen.label("recorded, not matched") == "recorded, not matched"
    assert seen.arms[0].limits == ("no limit",)


def test_one_arm_alone_is_neither_matched_nor_not(clean: pl.DataFrame) -> None:
    seen = audit(clean.filter(STAR), "cap")

    assert (seen.pairs, seen.matched, seen.label("live")) == ((), False, "live")
    assert "one arm, nothing to match" in printed(seen)


def test_limits_and_prices_that_change_within_both_arms_alike_do_not_match(clean: pl.DataFrame) -> None:
    early = pl.col("seed") == 0
    limits = audit(clean.with_columns(cap_calls=pl.when(early).then(50)), "cap")
    prices = audit(clean.with_columns(prices=pl.when(early).then(pl.lit("00")).otherwise("prices")), "cap")

    assert len(limits.unclean) == len(prices.unclean) == 3


def test_arms_meet_only_under_the_same_budget_and_family(trials: pl.DataFrame) -> None:
    seen = audit(trials, "cap")

    assert len(seen.arms) == 15 * 2 * 2
    assert len(seen.pairs) == 15 * 14 // 2 * 2 * 2


def test_the_terminal_names_the_reasons_that_spoil_most(clean: pl.DataFrame) -> None:
    spoilt = clean.with_columns(topology=pl.col("topology") + "\x1b[2J", over_calls=pl.when(STAR).then(3).otherwise(0))
    text = printed(audit(spoilt, "cap"))

    assert "not matched. 1 of 3 pairs of arms are clean" in text
    assert "2 pairs: Star(4)[2J · small passed a limit" in text
    assert "\x1b" not in text
    assert "0/2" in text
