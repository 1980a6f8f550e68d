"""The auction: cost against value, every bid and vote paid by who asks, and no refusal of its own ends a run."""

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import Fixed, StrategyAuction
from policies.auction.rules import Offer, Weights, offers, winner
from runtime.agents.agent import Agent
from runtime.budget import Budget
from runtime.errors import ConfigError, ModelRefused
from runtime.host import run_virtual
from runtime.messages import Bid, Report, Vote
from runtime.models.base import ChatReply, ChatRequest
from runtime.models.scripted import ScriptedModel
from runtime.preflight import RunSpec
from runtime.result import RunResult
from runtime.task import Task
from runtime.usage import Price, Usage
from topologies import Single

WEIGHTS = Weights()
BIDS = [("small", 1.0, Bid(("look it up",))), ("large", 4.0, Bid(("look it up",)))]
bids = st.lists(
    st.tuples(st.floats(0.01, 100), st.text(max_size=400)), min_size=2, max_size=5, unique_by=lambda bid: bid[0]
).map(lambda drawn: [(f"m{i}", price, Bid((plan,))) for i, (price, plan) in enumerate(drawn)])


def award(scores: Sequence[Sequence[int]], weights: Weights = WEIGHTS) -> str:
    best = winner(offers(BIDS, scores, weights), weights)
    assert best is not None
    return best.model


@pytest.mark.parametrize(
    ("scores", "model"),
    [
        ([[3, 3], [3, 3]], "small"),  # all equal in value: the cheaper one
        ([[0, 5], [0, 5]], "large"),  # all agree on the dearer one
        ([[5, 0], [0, 5]], "small"),  # each for itself
        ([[5, 5], [1, 1]], "small"),  # a lenient and a strict judge say the same
        ([], "small"),
        ([[0, 5, 9], [0]], "small"),  # votes with another number of scores are ignored
        ([[-99, 99], [-99, 99]], "large"),  # scores are clipped to 0..5
    ],
)
def test_the_lowest_cost_minus_value_wins(scores: list[list[int]], model: str) -> None:
    assert award(scores) == model


def test_a_judge_counts_less_for_itself() -> None:
    (mine, theirs) = offers(BIDS, [[5, 0], [2, 2]], WEIGHTS)

    assert (mine.value, theirs.value) == (0.5 * 0.5, -0.5)


def test_weight_on_cost_alone_takes_the_cheapest_and_on_value_alone_the_best() -> None:
    assert award([[0, 5], [0, 5]], Weights(cost=1, peer=0, own=0)) == "small"
    assert award([[2, 3], [2, 3]], Weights(cost=0, peer=1, own=0.5)) == "large"


def test_a_long_plan_costs_more_and_an_empty_one_no_less_than_a_short_one() -> None:
    short, empty, long = (
        offers([("m", 1.0, Bid((plan,))), ("n", 1.0, Bid(("x",)))], [], WEIGHTS)[0].length_tokens
        for plan in ("x" * 100, "", "x" * 1000)
    )

    assert short == empty == 32 < long == 250


def test_ties_go_to_the_lower_price_and_then_to_the_first() -> None:
    sealed = [Offer("a", 2.0, 32, 1.0), Offer("b", 1.0, 32, 0.5), Offer("c", 1.0, 32, 0.5)]

    assert winner(sealed, WEIGHTS) == sealed[1]
    assert winner([], WEIGHTS) is None


@given(bids, st.data())
def test_the_winner_does_not_depend_on_the_order_of_the_bidders(drawn: Any, data: st.DataObject) -> None:
    n = len(drawn)
    scores = [[data.draw(st.integers(0, 5)) for _ in range(n)] for _ in range(n)]
    models = set()
    for order in list(permutations(range(n)))[:12]:
        seen = [[scores[j][i] for i in order] for j in order]
        best = winner(offers([drawn[i] for i in order], seen, WEIGHTS), WEIGHTS)
        assert best is not None
        models.add((best.model, round(best.value, 9)))

    assert len(models) == 1


@pytest.mark.parametrize("bidders", [(), ("a",), ("a", "a"), ("a", "b", "a")])
def test_an_auction_needs_different_bidders(bidders: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        StrategyAuction(*bidders)


# --- inside a run


class Bidder(ScriptedModel):
    """Says in what it was asked, and by which block it was told what to do."""

    def __init__(self, name: str, price: Price, bid: Any = None, vote: Any = None, **more: Any) -> None:
        super().__init__(self._say, name=name, input_tokens=60, output_tokens=40, **more)
        self.price = price
        self.bid, self.vote = bid or Bid((f"plan of {name}",)), vote or Vote((2, 3))
        self.prompts: list[str] = []

    def _say(self, request: ChatRequest) -> Any:
        self.prompts.append(request.messages[-1].content)
        return {"bid": self.bid, "vote": self.vote, "report": Report("42")}[request.reply]


def auctioned(budget: Budget, *bidders: Bidder) -> RunResult:
    agent = Agent("executor", model=StrategyAuction(*(bidder.name for bidder in bidders)))
    spec = RunSpec("run", Single(agent), Task("How many?", answer="42"), budget, 0)
    return run_virtual([spec], {bidder.name: bidder for bidder in bidders}.__getitem__)[0]


def pair(**more: Any) -> tuple[Bidder, Bidder]:
    """The second is ten times as dear, and both judges prefer its plan."""
    return Bidder("small", Price(1, 1), vote=Vote((0, 5)), **more), Bidder("large", Price(2, 2), vote=Vote((0, 5)))


def test_bids_votes_and_work_are_paid_by_the_seat_and_the_winner_follows_its_plan() -> None:
    one, two = pair()
    result = auctioned(Budget(tokens=500), one, two)

    assert result.status == "completed"
    assert [(a.kind, a.model) for a in result.attempts] == [
        ("bid", "small"),
        ("bid", "large"),
        ("vote", "small"),
        ("vote", "large"),
        ("work", "large"),
    ]
    assert {a.seat for a in result.attempts} == {"agent"}
    assert (result.spend.total.tokens, result.spend.by_model["small"].tokens) == (500, 200)
    assert "<strategy>\nplan of large\n</strategy>" in two.prompts[-1]


def test_judges_are_not_told_whose_bid_is_whose() -> None:
    one, two = pair()
    auctioned(Budget(tokens=500), one, two)

    assert "small" not in one.prompts[1].replace("plan of small", "")
    assert '<bid number="1">\nplan of small\n</bid>' in one.prompts[1]


@pytest.mark.parametrize("calls", [1, 2, 3, 4])
def test_a_budget_that_does_not_pay_for_the_auction_leaves_the_work_to_the_cheapest(calls: int) -> None:
    """And what is left pays for the work only where something is left."""
    result = auctioned(Budget(calls=calls), *pair())

    assert (result.status, result.overspent, result.spend.total.calls) == ("exhausted", False, calls)
    assert not [a for a in result.attempts if a.kind == "work"]


def test_a_jury_that_is_not_complete_decides_nothing() -> None:
    """The dear one's vote does not fit; the vote that was paid alone would have given it the work."""
    bidders = Bidder("small", Price(1, 1), vote=Vote((0, 5))), Bidder("large", Price(3, 3))
    result = auctioned(Budget(usd="0.00000000075"), *bidders)

    assert (result.status, result.answer) == ("completed", "42")
    assert [(a.kind, a.model) for a in result.attempts] == [
        ("bid", "small"),
        ("bid", "large"),
        ("vote", "small"),
        ("work", "small"),
    ]


def test_a_bidder_that_the_budget_cannot_pay_does_not_keep_the_work_from_being_done() -> None:
    """The dear one's bid does not fit; the cheap one does the work."""
    result = auctioned(Budget(usd="0.0000000003"), Bidder("small", Price(1, 1)), Bidder("large", Price(9, 9)))

    assert (result.status, result.answer) == ("completed", "42")
    assert [(a.kind, a.model) for a in result.attempts] == [("bid", "small"), ("work", "small")]


@pytest.mark.parametrize("spoilt", [{"bid": "{"}, {"bid": Bid(())}, {"vote": "no numbers"}, {"vote": Vote((1, 2, 3))}])
def test_a_bid_or_vote_that_cannot_be_read_counts_as_none_and_is_paid(spoilt: dict[str, Any]) -> None:
    small, large = pair()
    for name, value in spoilt.items():
        setattr(large, name, value)
    result = auctioned(Budget(calls=9), small, large)

    assert result.status == "completed"
    assert [a.state for a in result.attempts] == ["settled"] * len(result.attempts)
    assert result.attempts[-1].kind == "work"
    assert result.spend.total.calls == (3 if "bid" in spoilt else 5)


def test_a_prompt_beyond_a_bidders_window_never_holds_less_than_the_prompt() -> None:
    class Small(Bidder):
        shrinkable = True

        def bound(self, request: ChatRequest) -> Usage:
            return Usage(1000, request.max_tokens)

    bidders = [Small(name, Price(1, 1), window_tokens=300) for name in ("a", "b")]
    for bidder in bidders:
        bidder.usage = Usage(1000, 30)
    result = auctioned(Budget(tokens=10_000), *bidders)

    assert [a.kind for a in result.attempts] == ["bid", "bid", "vote", "vote", "work"]
    assert all(a.held_tokens == 1000 + a.max_tokens > 1000 for a in result.attempts)


def test_a_fixed_router_is_the_model_itself() -> None:
    model = ScriptedModel(["42"], name="m")
    results = [
        run_virtual([RunSpec("r", Single(model=by), Task("q"), Budget(calls=1), 0)], {"m": model}.__getitem__)[0]
        for by in ("m", Fixed("m"))
    ]

    assert results[0].to_json() == results[1].to_json()


def test_a_bidder_that_is_down_leaves_the_work_to_the_other() -> None:
    class Down(ScriptedModel):
        async def complete(self, request: ChatRequest) -> ChatReply:
            raise ModelRefused(self.name, 403, "no access")

    lines = {"bid": Bid(("step",)), "vote": Vote((3,)), "report": Report("42")}
    models = {
        "up": ScriptedModel(lambda request: lines[request.reply], name="up"),
        "down": Down(["never"], name="down", usd=1),
    }
    spec = RunSpec("run", Single(model=StrategyAuction("up", "down")), Task("q", "42"), Budget(calls=9), 0)

    [result] = run_virtual([spec], models.__getitem__)

    assert (result.status, result.correct) == ("completed", True)
