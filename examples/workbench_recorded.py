"""Eight recorded systems in the office of WorkBench: each alone, the vote of all eight, and a cascade from cheap to dear.

    ostrom sweep examples/workbench_recorded.py --set data=PATH --out out/workbench

An answer is what a system's tool calls changed in the end; tokens and dollars are estimated. Nothing is called and nothing is
billed.
"""

from benchmarks.experiment import Experiment, setting
from benchmarks.tasks import workbench
from runtime import Agent, Budget
from topologies import Independent, Single
from topologies.cascade import Cascade

recordings = workbench.load(setting("data", help="the folder with queries, recorded calls, tools and tables"))

# By what an answer costs: a prompt with the tools of one domain is shorter than one with all of them.
systems = [
    "mixtral-8x7b-domains",
    "llama2-70b-domains",
    "gpt-3.5-domains",
    "mixtral-8x7b-all",
    "claude-2-domains",
    "gpt-4-domains",
    "claude-2-all",
    "gpt-4-all",
]
team = [Agent("executor", model=f"recorded/{system}") for system in systems]

experiment = Experiment(
    "workbench-recorded",
    tasks=recordings.tasks,
    topologies=[
        *(Single(agent, name=system) for system, agent in zip(systems, team, strict=True)),
        Independent(team[::-1]),  # ties go to the first, the dearest; in a cascade to the last, the dearest again
        Cascade(team),
    ],
    budgets=[Budget(usd=100)],  # more than any arm spends on a query: arms differ in price, and are not matched
    match="none",
    catalog=recordings.models,
)
