"""Four recorded systems on problems of GSM8K: each alone, the vote of all four, and a cascade from cheap to dear.

    ostrom sweep examples/gsm8k_recorded.py --set data=PATH/recorded.jsonl --out out/gsm8k

Answers are those that real systems gave; tokens and dollars are estimated. Nothing is called and nothing is billed.
"""

from benchmarks.experiment import Experiment, setting
from benchmarks.tasks import gsm8k
from runtime import Agent, Budget
from topologies import Independent, Single
from topologies.cascade import Cascade

tasks, models = gsm8k.load(setting("data", help="the file with the recorded answers, JSON lines"))

# By what an answer costs. A verified one is 200 calls of its model: more than one call of a model seven times as dear.
systems = ["6b-finetuning", "175b-finetuning", "6b-verification", "175b-verification"]
team = [Agent("executor", model=f"recorded/{system}") for system in systems]

experiment = Experiment(
    "gsm8k-recorded",
    tasks=tasks,
    topologies=[
        *(Single(agent, name=system) for system, agent in zip(systems, team, strict=True)),
        Independent(team[::-1]),  # ties go to the first, the dearest; in a cascade to the last, the dearest again
        Cascade(team),
    ],
    budgets=[Budget(usd=1)],  # more than any arm spends on a problem: arms differ in price, and are not matched
    match="none",
    catalog=models,
)
