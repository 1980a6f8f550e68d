"""Five teams, three ways to choose a model, three dollar budgets, on work that splits and on work that does not (simulated)."""

from benchmarks import Experiment
from benchmarks.tasks import companies, craft
from policies import StrategyAuction
from runtime import Budget
from topologies import Chain, Single, Star, Tree

experiment = Experiment(
    "first-sweep",
    tasks=companies.generate(10, seed=1) + craft.generate(10, seed=1),
    topologies=[Single(), Single(fill=True), Star(4), Chain(3), Tree(branching=2, depth=2)],
    models=["sim/small", "sim/large", StrategyAuction("sim/small", "sim/large")],
    budgets=[Budget(usd="0.012"), Budget(usd="0.02"), Budget(usd="0.04")],
    seeds=[0, 1, 2],
)
