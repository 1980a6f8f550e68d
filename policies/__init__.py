"""Choices with several right answers: routers, pacing, voting, stopping."""

from policies.auction.auction import StrategyAuction as StrategyAuction
from policies.pacing import EvenPacing as EvenPacing
from policies.pacing import FixedPacing as FixedPacing
from policies.routing.fixed import Fixed as Fixed
from policies.stopping import agreed as agreed
from policies.voting import agreement as agreement
from policies.voting import majority as majority

__all__ = ("EvenPacing", "Fixed", "FixedPacing", "StrategyAuction", "agreed", "agreement", "majority")
