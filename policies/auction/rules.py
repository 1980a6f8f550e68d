"""Owns the auction's decision: pure functions from bids, scores and prices to a winner.

Source: L. Alazraki, W. F. Shen, Y. Bachrach, A. Mathur, "Strategy Auctions for Workload Efficiency", ICML 2026
(arXiv 2602.02751). Cost C = w_c · π · |s| and value V = w_h · H(s) + Σ_j w_j · γ_j(s); the bid with the lowest C - V wins. Ours
where the paper is silent or needs what a chat endpoint does not give: the entropy term is left out (it needs log-probabilities
and is not comparable between model families); scores are centred per judge, because judges differ in leniency; the cost
term is scaled by the dearest bid, so that weights do not depend on the unit of money; ties go to the lower price.
"""

from collections.abc import Sequence
from typing import NamedTuple

from runtime.messages import Bid
from runtime.models.base import estimate_tokens


class Offer(NamedTuple):
    """One bid with everything the decision looks at."""

    model: str
    price: float
    """Blended list price π, in $ per million tokens."""
    length_tokens: int
    """|s|, clipped from below at `floor_tokens`: a plan of three words is no cheaper for being empty."""
    value: float
    """Sum of the jury's centred scores over 5, in judges' units."""


class Weights(NamedTuple):
    """Weights of the decision. The scale is fixed by w_c = 1 per unit of the dearest bid's cost."""

    cost: float = 1.0
    peer: float = 1.0
    own: float = 0.5
    """A judge's score of its own bid counts less: self-scores are inflated."""


def offers(
    bids: Sequence[tuple[str, float, Bid]], scores: Sequence[Sequence[int]], weights: Weights, floor_tokens: int = 32
) -> list[Offer]:
    """Value every bid by the jury.

    Args:
        bids: (model, price, bid) in the order in which the judges saw them.
        scores: [n_judges][n_bids] in 0..5; judge j is the author of bid j. A judge with another number of scores is ignored.
    """
    values = [0.0] * len(bids)
    for j, given in enumerate(scores):
        if len(given) != len(bids):
            continue
        clipped = [min(5, max(0, score)) for score in given]
        mean = sum(clipped) / len(clipped)
        for i, score in enumerate(clipped):
            weight = weights.own if i == j else weights.peer
            values[i] += weight * (score - mean) / 5
    return [
        Offer(model, price, max(floor_tokens, estimate_tokens("\n".join(bid.steps))), value)
        for (model, price, bid), value in zip(bids, values, strict=True)
    ]


def winner(sealed: Sequence[Offer], weights: Weights) -> Offer | None:
    """The offer with the lowest cost minus value; ties to the lower price, then to the first. None without offers."""
    dearest = max((offer.price * offer.length_tokens for offer in sealed), default=0.0) or 1.0

    def score(offer: Offer) -> tuple[float, float]:
        return weights.cost * offer.price * offer.length_tokens / dearest - offer.value, offer.price

    return min(sealed, key=score, default=None)
