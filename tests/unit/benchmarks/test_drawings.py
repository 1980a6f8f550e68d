"""What the pictures of topologies promise: every seat and channel is in them, nested ones too, and no name is markup."""

import re
from xml.etree import ElementTree

import pytest

from benchmarks.drawings import draw, drawings_of
from benchmarks.marks import natural, safe, short, tail
from runtime.agents.agent import Agent
from topologies import Chain, Hybrid, Independent, Mesh, Single, Star, Topology, Tree

HOSTILE = '<script>"&\x1b[2J\u202e'
SHAPES = [
    Single(),
    Independent(3),
    Independent(3, combine="best"),
    Star(4),
    Star(3, rounds=2),
    Chain(3),
    Tree(2, 2),
    Mesh(2),
    Mesh(5),
    Mesh(20),
    Hybrid(4),
    Star([Chain(2), Mesh(3), Single()]),
    Mesh([Star(2), Star(2)]),
]


class Own(Topology):
    """Seats and channels with names nobody should trust."""

    def channels(self) -> list[tuple[str, str]]:
        """A loop."""
        return [(HOSTILE, "b"), ("b", "c"), ("c", HOSTILE)]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


@pytest.mark.parametrize("topology", SHAPES, ids=lambda topology: topology.name)
def test_every_seat_and_channel_is_drawn(topology: Topology) -> None:
    svg, told = draw(topology), texts(draw(topology))
    lines = len(re.findall(r"<(?:path|line) ", svg))

    def count(one: Topology) -> tuple[int, int]:
        inner = [count(member) for member in one.seats().values() if isinstance(member, Topology)]
        channels = {
            frozenset(pair) if "agent" in pair[0] or one.name.startswith("Hybrid") else pair for pair in one.channels()
        }
        return len(one.seats()) + sum(n for n, _ in inner), len(channels) + sum(n for _, n in inner)

    assert (len(told), lines) == count(topology)
    assert len(topology.draw().splitlines()) == 1 + sum(count(topology)) + topology.draw().count("subgraph")


@pytest.mark.parametrize("topology", SHAPES, ids=lambda topology: topology.name)
def test_a_picture_holds_what_is_drawn_in_it(topology: Topology) -> None:
    root = ElementTree.fromstring(draw(topology))
    width, height = float(root.get("width", 0)), float(root.get("height", 0))

    def inside(element: ElementTree.Element, x: float, y: float) -> None:
        moved = re.match(r"translate\((\S+) (\S+)\)", element.get("transform", ""))
        x, y = (x + float(moved[1]), y + float(moved[2])) if moved else (x, y)
        if element.tag.endswith("rect"):
            assert x >= 0
            assert y >= 0
            assert x + float(element.get("width", 0)) <= width + 0.2
            assert y + float(element.get("height", 0)) <= height + 0.2
        for child in element:
            inside(child, x, y)

    inside(root, 0, 0)


def test_names_are_text_and_loops_are_drawn() -> None:
    own = Own('"><script>', {seat: Agent("solver") for seat in (HOSTILE, "b", "c")})

    root = ElementTree.fromstring(draw(own))
    assert not any("script" in element.tag for element in root.iter())
    assert "stroke-dasharray" in draw(own), "the way back is drawn apart"
    assert not re.search("[\x00-\x08\x1b\u202e]", draw(own) + own.draw().replace("\n", ""))
    assert "<script>" not in own.draw()
    assert '"#lt;script#gt;#quot;#amp;' in own.draw()


def test_a_crowd_is_a_number() -> None:
    assert texts(draw(Independent(300))) == ["300 seats"]
    assert Independent(300).draw().splitlines()[1:] == ['  n["300 seats"]']


def test_mermaid_text_of_a_chain() -> None:
    assert Chain(1).draw() == (
        'flowchart TD\n  n0["planner"]\n  n1["executor[0]"]\n  n2["verifier"]\n  n0 --> n1\n  n1 --> n2\n'
    )


def test_a_report_draws_teams_only() -> None:
    assert list(drawings_of([Single(), Star(2)])) == ["Star(2)"]


def test_text_is_made_harmless_and_short() -> None:
    assert safe("a<b>\x00\ud800\u2066'") == "a&lt;b&gt;&#x27;"
    assert short("x\ny" * 50, 5) == "x yx…"
    assert tail("left/executor[3]", 8) == "…utor[3]"
    assert tail("agent[0]") == "agent[0]"
    assert sorted(["a[10]", "a[9]", "b"], key=natural) == ["a[9]", "a[10]", "b"]
