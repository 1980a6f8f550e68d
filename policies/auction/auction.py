"""Owns StrategyAuction: models apply for a task with a short plan, all of them judge all plans, cost and value decide."""

from dataclasses import dataclass, field

from policies.auction.rules import Weights, offers, winner
from runtime.errors import ConfigError
from runtime.messages import Bid, Vote
from runtime.protocols import Award, Caller, Work


@dataclass(frozen=True)
class StrategyAuction:
    """Route each task or part by auction. Calls per decision: one bid and one vote per bidder.

    Bids and votes are ordinary attempts, paid by the seat that asks. When a bid or a vote does not fit the budget any more,
    the cheapest bidder gets the work without an auction. Authors are not shown to the judges. This form has no memory of
    earlier auctions and no refinement of losing bids.

    Raises:
        ConfigError: fewer than two bidders, or one named twice.

    Source: see `policies.auction.rules`.
    """

    bidders: tuple[str, ...]
    weights: Weights = field(default=Weights())

    def __init__(self, *bidders: str, weights: Weights | None = None) -> None:
        if len(bidders) < 2 or len(set(bidders)) != len(bidders):
            raise ConfigError(f"StrategyAuction needs two or more different models, not {', '.join(bidders) or 'none'}")
        object.__setattr__(self, "bidders", bidders)
        object.__setattr__(self, "weights", weights or Weights())

    @property
    def name(self) -> str:
        """Label in tables; a folder that all bidders share is written once, as in `sim/auction(small,large)`."""
        folders = {bidder.rpartition("/")[0] for bidder in self.bidders}
        folder = f"{folders.pop()}/" if len(folders) == 1 and "" not in folders else ""
        return f"{folder}auction({','.join(bidder.removeprefix(folder) for bidder in self.bidders)})"

    @property
    def models(self) -> tuple[str, ...]:
        """All bidders."""
        return self.bidders

    async def route(self, work: Work, caller: Caller) -> Award:
        """Collect bids, let all bidders judge all of them, award to the best; the winner follows its own plan."""
        cheapest = min(self.bidders, key=caller.price_per_million_usd)
        applied = await caller.ask_role("bidder", self.bidders, work)
        bids = [
            (model, caller.price_per_million_usd(model), bid)
            for model, bid in zip(self.bidders, applied, strict=True)
            if isinstance(bid, Bid) and bid.steps
        ]
        if len(bids) < 2:
            return Award(cheapest)
        judges = [model for model, _, _ in bids]
        votes = await caller.ask_role("judge", judges, work, [bid for _, _, bid in bids])
        if not all(isinstance(vote, Vote) for vote in votes):
            return Award(cheapest)
        scores = [vote.scores for vote in votes if isinstance(vote, Vote)]
        best = winner(offers(bids, scores, self.weights), self.weights)
        if best is None:
            return Award(cheapest)
        return Award(best.model, next(bid.steps for model, _, bid in bids if model == best.model))
