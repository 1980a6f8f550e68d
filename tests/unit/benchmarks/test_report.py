"""What the report promises: one file that needs nothing and runs nothing, and that says first what is most often missed."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from benchmarks.report import Manifest, render, write_report
from benchmarks.tables import canonical_sha256
from runtime.errors import InternalError

Make = Callable[..., pl.DataFrame]
DRAWING = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><circle cx="4" cy="4" r="3"/></svg>'
CANARY = "<script>alert('canary')</script>"


@pytest.fixture(scope="module")
def few(make_trials: Make) -> pl.DataFrame:
    return make_trials(("Single(fill)", "Star(4)"), ("small",), ("$0.0004",), ("companies",), 6, 2)


def manifest_of(trials: pl.DataFrame) -> Manifest:
    return Manifest(
        name="which-team",
        created="2026-11-20 09:00 UTC",
        revision="0123abc",
        versions={"ostrom": "0.1.0"},
        priced_by={"sim/small": "declared by the model"},
        match="cap",
        kind="simulated",
        command="ostrom sweep which_team.py --out out",
        seeds=[0, 1],
        planned=trials.height,
        finished=trials.height,
        floored={},
        sha256=canonical_sha256(trials),
    )


class Page(HTMLParser):
    """Collects what a browser would load, run or show."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.headings: list[str] = []
        self.captions: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ["h2"] and data.strip():
            self.headings.append(data.strip())
        if self.tags[-1:] == ["caption"] and data.strip():
            self.captions.append(data.strip())


@pytest.fixture(scope="module")
def page(few: pl.DataFrame) -> Page:
    return Page(render(few, manifest_of(few), {"Star(4)": DRAWING}))


def test_the_report_is_one_file_that_loads_and_runs_nothing(page: Page) -> None:
    assert not {"script", "link", "img", "iframe", "object", "embed", "image", "foreignobject"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "src"]
    assert all(value.startswith("#") for name, value in page.attributes if name.endswith("href"))
    others = [value for name, value in page.attributes if "http" in value and not name.startswith("xmlns")]
    assert not others
    assert any("default-src 'none'" in value for name, value in page.attributes if name == "content")


def test_the_report_answers_first(page: Page) -> None:
    assert page.headings == [
        "Question and answer",
        "Curves",
        "Table",
        "Paired comparisons",
        "Match audit",
        "Teams",
        "Run it again",
        "Words",
    ]


def test_every_table_and_figure_says_simulated(few: pl.DataFrame, page: Page) -> None:
    html = render(few, manifest_of(few), {})

    assert page.captions
    assert all("(simulated, matched)" in caption for caption in page.captions)
    assert html.count("(simulated, matched)</text>") == html.count('width="792pt"') == 1
    assert "The models are simulated" in html


def test_what_models_and_users_wrote_stays_text(few: pl.DataFrame) -> None:
    texts = ("experiment", "topology", "model", "budget", "family", "task", "reason", "answer", "prices")
    hostile = few.with_columns(*(pl.lit(CANARY).alias(name) for name in texts), status=pl.lit("failed"))
    hostile = hostile.with_columns(topology=pl.lit(CANARY) + few["topology"], over_calls=1)
    manifest = manifest_of(few)
    manifest |= {
        "name": CANARY,
        "created": CANARY,
        "revision": CANARY,
        "command": CANARY,
        "kind": CANARY,
        "sha256": CANARY,
    }
    html = render(hostile, manifest | {"versions": {CANARY: CANARY}}, {CANARY: DRAWING})

    assert "script" not in Page(html).tags
    assert html.count("alert(&#39;canary&#39;)") > 20


def test_control_characters_do_not_reach_the_page(few: pl.DataFrame) -> None:
    html = render(few.with_columns(model=pl.lit("m\x1b[2J\x00\x9b")), manifest_of(few), {})

    assert "m[2J" in html
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", html)


@pytest.mark.parametrize(
    "inside",
    [
        "<script>1</script>",
        '<circle onload="x()"/>',
        '<a href="#x"/>',
        '<use href="other.svg#x"/>',
        '<use xmlns:x="http://www.w3.org/1999/xlink" x:href="data:x"/>',
        "<foreignObject/>",
        "<circle>",
    ],
)
def test_a_drawing_that_could_act_is_refused(few: pl.DataFrame, inside: str) -> None:
    with pytest.raises(InternalError, match="drawing"):
        render(few, manifest_of(few), {"Star(4)": DRAWING.replace("<circle", f"{inside}<circle", 1)})


def test_a_drawing_that_is_no_svg_is_refused(few: pl.DataFrame) -> None:
    with pytest.raises(InternalError, match="no SVG"):
        render(few, manifest_of(few), {"Star(4)": "<div>Star</div>"})


def test_an_unmatched_experiment_says_so_before_the_curves(few: pl.DataFrame) -> None:
    html = render(few.with_columns(over_tokens=pl.int_range(pl.len()) // 23), manifest_of(few), {})

    assert html.index("Not matched: 1 of 1 pairs") < html.index('id="curves"')
    assert "(simulated, matched)" not in html
    assert "Star(4) · small passed a limit" in html


def test_recorded_runs_are_not_matched_and_not_called_simulated(few: pl.DataFrame) -> None:
    manifest = manifest_of(few) | {"match": "none", "kind": "recorded, not matched"}
    html = render(few, manifest, {})

    assert "(recorded, not matched)" in html
    assert "simulated" not in html.lower()
    assert "never meant to match" in html
    assert "this does not say which is worth more" in html


def test_an_unfinished_or_foreign_table_is_told(few: pl.DataFrame) -> None:
    html = render(few, manifest_of(few) | {"planned": 1_000, "sha256": "f" * 64}, {})

    assert "Only 24 of 1,000 planned trials are finished" in html
    assert "The manifest names another digest" in html


@pytest.mark.parametrize(
    ("star", "single", "answer"),
    [
        (True, False, "more than chance"),
        (True, True, "can be chance"),
        (False, True, "No team solved more than that single agent"),
        (True, None, "There is no Single(fill) arm"),
        (None, None, "No task has a checker"),
    ],
)
def test_the_answer_claims_what_the_trials_show(
    make_trials: Make, star: bool | None, single: bool | None, answer: str
) -> None:
    trials = make_trials(("Single(fill)", "Star(4)"), ("small",), ("$0.0004",), ("companies",), 10, 1)
    is_star = pl.col("topology") == "Star(4)"
    cheaper = pl.when(is_star).then(1_000).otherwise(2_000)
    trials = trials.with_columns(
        correct=pl.when(is_star).then(pl.lit(star, pl.Boolean)).otherwise(pl.lit(single, pl.Boolean)), pico_usd=cheaper
    )
    if single is None and star is not None:
        trials = trials.filter(is_star)

    html = render(trials, manifest_of(trials), {})
    sentence = re.search(r'<p class="answer">(.*?)</p>', html)
    assert sentence is not None
    assert answer in sentence[1]


def test_the_answer_is_about_all_families_at_the_largest_budget(make_trials: Make) -> None:
    trials = make_trials(("Single(fill)",), ("small",), ("$0.0004", "$0.0012"), n_tasks=2, n_seeds=1)

    assert "At $0.0012 a run, Single(fill) with small solved most over all families" in render(
        trials, manifest_of(trials), {}
    )


def test_the_file_is_written_whole(tmp_path: Path, few: pl.DataFrame) -> None:
    write_report(tmp_path / "report.html", few, manifest_of(few), {"Star(4)": DRAWING})
    html = (tmp_path / "report.html").read_text("utf-8")

    assert html.rstrip().endswith("</html>")
    assert canonical_sha256(few) in html
    assert "ostrom sweep which_team.py --out out" in html
