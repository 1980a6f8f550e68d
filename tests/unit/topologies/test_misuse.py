"""What cannot be a team is refused where it is built, in one sentence that names the place and what is wrong with it."""

from collections.abc import Callable
from typing import Any

import pytest

from runtime.agents.agent import Agent
from runtime.errors import ConfigError
from topologies import Cascade, Chain, Graph, Hybrid, Independent, Mesh, Single, Star, Topology, Tree

BUILDS: list[tuple[Callable[[], Any], str]] = [
    # Who is no member.
    (lambda: Star("x"), "Star: 'x' is neither a number of agents nor a list of them"),  # type: ignore[arg-type]
    (lambda: Star(2.5), "Star: 2.5 is neither a number of agents nor a list of them"),  # type: ignore[arg-type]
    (lambda: Star(True), "Star: True is neither a number of agents nor a list of them"),
    (lambda: Mesh(Agent("executor")), "Mesh: Agent\\(.*\\) is neither a number of agents nor a list of them"),  # type: ignore[arg-type]
    (lambda: Star([1, 2]), "Star: executor: 1 is neither an Agent nor a topology"),  # type: ignore[list-item]
    (lambda: Cascade([Agent("executor"), "small"]), "Cascade: executor: 'small' is neither an Agent nor a topology"),  # type: ignore[list-item]
    (lambda: Chain([Single]), "Chain: executor: <class '.*Single'> is neither an Agent nor a topology"),  # type: ignore[list-item]
    (lambda: Star(planner="large"), "Star: planner: 'large' is neither an Agent nor a topology"),  # type: ignore[arg-type]
    (lambda: Hybrid(2, verifier="large"), "Hybrid: verifier: 'large' is neither an Agent nor a topology"),  # type: ignore[arg-type]
    (lambda: Single("small"), "Single: agent: 'small' is neither an Agent nor a topology"),  # type: ignore[arg-type]
    (lambda: Graph({"a": "x"}, []), "graph: a: 'x' is neither an Agent nor a topology"),
    (lambda: Graph({"a": [1]}, []), "graph: a: 1 is neither an Agent nor a topology"),  # type: ignore[list-item]
    (lambda: Topology("own", {"a": 1}), "own: a: 1 is neither an Agent nor a topology"),  # type: ignore[dict-item]
    # Whose reply nobody here can use.
    (
        lambda: Graph({"a": Agent("bidder")}, []),
        "graph: a: Agent\\('bidder'\\) gives a bid, which only routers ask for",
    ),
    (lambda: Topology("own", {"a": Agent("judge")}), "own: a: Agent\\('judge'\\) gives a vote, which only routers"),
    (lambda: Single(Agent("judge")), "Single: agent: Agent\\('judge'\\) gives a vote, which only routers ask for"),
    (lambda: Star([Agent("judge")]), "Star: executor: Agent\\('judge'\\) gives a vote"),
    (lambda: Star(verifier=Agent("planner")), "Star: verifier: Agent\\('planner'\\) gives a plan, and a verdict"),
    (lambda: Chain(verifier=Agent("hub")), "Chain: verifier: Agent\\('hub'\\) gives a plan, and a verdict"),
    (lambda: Hybrid(verifier=Agent("planner")), "Hybrid: verifier: Agent\\('planner'\\) gives a plan, and a verdict"),
    (
        lambda: Independent(2, combine="best", verifier=Agent("planner")),
        "Independent: verifier: Agent\\('planner'\\) gives a plan, and a verdict",
    ),
    # How many.
    (lambda: Mesh(3, rounds="a"), "Mesh: rounds='a' must be a whole number, 1 or more"),  # type: ignore[arg-type]
    (lambda: Star(3, rounds=1.5), "Star: rounds=1.5 must be a whole number, 1 or more"),  # type: ignore[arg-type]
    (lambda: Hybrid(3, peer_rounds="a"), "Hybrid: peer_rounds='a' must be a whole number, 0 or more"),  # type: ignore[arg-type]
    (lambda: Cascade(3, agree="all"), "Cascade: agree='all' must be a whole number, 1 or more"),  # type: ignore[arg-type]
    (lambda: Tree("a"), "Tree: branching='a' must be a whole number, 1 or more"),  # type: ignore[arg-type]
    (lambda: Tree(2, 1.5), "Tree: depth=1.5 must be a whole number, 1 or more"),  # type: ignore[arg-type]
    (lambda: Graph({"a": []}, []), "graph: node 'a' has no members"),
    (lambda: Graph({"a": Agent("executor"), "b": []}, [("a", "b")]), "graph: node 'b' has no members"),
]


@pytest.mark.parametrize(("build", "what"), BUILDS, ids=[what for _, what in BUILDS])
def test_what_cannot_be_a_team_is_refused_where_it_is_built(build: Callable[[], Any], what: str) -> None:
    with pytest.raises(ConfigError, match=f"^{what}"):
        build()


def test_a_role_of_ones_own_may_answer_in_a_verifiers_place() -> None:
    critic = Agent("critic", prompt="Weigh what you read.")

    assert Star(2, verifier=critic).seats()["verifier"] == Chain(2, verifier=critic).seats()["verifier"] == critic
    assert Independent(2, combine="best", verifier=Chain(1)).calls() == 2 + Chain(1).calls()
