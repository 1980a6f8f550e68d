"""What an experiment file may say, and what is refused before anything is planned."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import Experiment
from benchmarks.experiment import load_experiment
from runtime import Budget, Task
from runtime.errors import ConfigError
from topologies import Single

FILE = """
from benchmarks import Experiment, setting
from runtime import Budget, Task
from topologies import Single
from {beside} import PROMPT

experiment = Experiment(
    "x", tasks=[Task(PROMPT)], topologies=[Single()], models=["sim/small"], budgets=[Budget(calls=int(setting("calls", "3")))]
)
"""


def build(**changed: Any) -> Experiment:
    kept: dict[str, Any] = {
        "tasks": [Task("q")],
        "topologies": [Single()],
        "budgets": [Budget(calls=1)],
        "models": ["m"],
    }
    return Experiment("x", **(kept | changed))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"cap": Budget(seconds=60)}, "its cap limits tokens, usd, calls or tool_calls"),
        ({"cap": Budget(tool_calls={"search": 5})}, "its cap limits tokens, usd, calls or tool_calls"),
        ({"cap": 0.1}, "must be a Budget"),
        ({"budgets": ["0.01"]}, "budgets=.* must be a list of budgets"),
        ({"tasks": "tasks.jsonl"}, "tasks=.* must be a list of tasks"),
        ({"seeds": 3}, "seeds=3 must be a list of whole numbers"),
    ],
)
def test_what_could_not_be_run_as_meant_is_refused_with_the_form_that_is(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build(**changed)


def test_files_beside_it_are_found_and_shipped(tmp_path: Path) -> None:
    (tmp_path / "beside_one.py").write_text('PROMPT = "What is 6 times 7?"\n')
    (tmp_path / "one.py").write_text(FILE.format(beside="beside_one"))

    experiment, modules = load_experiment(tmp_path / "one.py", {"calls": "5"})

    assert (experiment.tasks[0].prompt, experiment.budgets[0].calls) == ("What is 6 times 7?", 5)
    assert [module.__name__ for module in modules[1:]] == ["beside_one"]


def test_a_setting_it_does_not_know_is_refused_with_those_it_does(tmp_path: Path) -> None:
    (tmp_path / "beside_two.py").write_text('PROMPT = "q"\n')
    (tmp_path / "two.py").write_text(FILE.format(beside="beside_two"))

    with pytest.raises(ConfigError, match="no setting 'seeds' in this experiment; it has calls"):
        load_experiment(tmp_path / "two.py", {"seeds": "1"})
