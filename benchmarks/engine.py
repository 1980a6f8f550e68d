"""Owns the sweep: it admits trials in plan order, runs what is not sealed yet, and hands over rows as they come."""

import platform
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby

import orjson
import polars as pl

from benchmarks.metrics.runs import floored
from benchmarks.plan import Definition, Plan, Trial
from benchmarks.report import Manifest
from benchmarks.rows import calls_frame, trial_row, trials_frame
from benchmarks.tables import canonical_sha256
from runtime.bank.grants import Limits, check_covered, scope_caps
from runtime.driver import Runtime
from runtime.errors import ConfigError
from runtime.ids import PACKAGES, address
from runtime.operator import EXPERIMENT
from runtime.result import RunResult

PLAN_NOTE = "plan"


@dataclass
class Sweep:
    """One experiment on one runtime.

    Args:
        fork: go on although the store was made by another plan; the manifest then says so.
    """

    experiment: Definition
    plan: Plan
    runtime: Runtime
    fork: bool = False
    results: dict[str, RunResult] = field(default_factory=dict)
    """Finished trials by address."""
    resumed: int = 0
    """How many of them were in the store before."""
    forked_from: str = ""
    not_admitted: int = 0
    """Trials that the experiment's cap left out."""

    def check(self) -> None:
        """Check the cap; touches no store.

        Raises:
            ConfigError: a live sweep has no cap, or the cap limits something that a trial's budget does not.
        """
        if self.plan.kind == "live" and self.experiment.cap is None:
            raise ConfigError(
                f"experiment {self.experiment.name!r} spends real money and has no cap; "
                "give it one, for example Experiment(..., cap=Budget(usd=5))"
            )
        caps = scope_caps(self.experiment.cap)
        for trial in self.plan.trials:
            check_covered(caps, trial.spec.budget)

    async def begin(self) -> None:
        """Note the plan in the store and take over what is finished there.

        Raises:
            ConfigError: the store belongs to another plan; see also `check`.
        """
        self.check()
        # The code is part of it: results of two codes must not meet in one table unnoticed.
        digest = address([self.plan.digest, code_revision()])
        known = await self.runtime.note(PLAN_NOTE)
        before = orjson.loads(known) if known else {}
        if before and before["digest"] != digest:
            if not self.fork:
                raise ConfigError(
                    f"this folder holds another plan of {before['name']!r} (tasks, seeds, prompts, prices, arms or "
                    "the code of Ostrom differ); take another --out, or --fork to go on here and have the manifest say so"
                )
            self.forked_from = before["digest"]
        else:
            # Said in the manifest of whoever goes on here, too.
            self.forked_from = before.get("forked_from", "")
        note = {
            "name": self.experiment.name,
            "digest": digest,
            "planned": len(self.plan.trials),
            "forked_from": self.forked_from,
        }
        await self.runtime.set_note(PLAN_NOTE, orjson.dumps(note))
        self.results = await self.runtime.sealed([trial.spec.address for trial in self.plan.trials])
        self.resumed = len(self.results)

    async def run(self) -> AsyncIterator[tuple[Trial, RunResult]]:
        """Run what is not finished; results come as they are sealed."""
        by_address = {trial.spec.address: trial for trial in self.plan.trials}
        # What is finished is settled in the bank's books; the rest enters in plan order, whole blocks or none. In rounds,
        # each decided when the one before is settled, the same blocks enter whatever the timing.
        todo = [trial for trial in self.plan.trials if trial.spec.address not in self.results]
        blocks = [[trial.spec for trial in block] for _, block in groupby(todo, key=lambda trial: trial.block)]
        while blocks:
            n = await self.runtime.enter(self._limits(), blocks)
            if n == 0:
                self.not_admitted = sum(len(block) for block in blocks)
                return
            async for spec, result in self.runtime.map([spec for block in blocks[:n] for spec in block]):
                self.results[spec.address] = result
                yield by_address[spec.address], result
            blocks = blocks[n:]

    def _limits(self) -> Limits:
        live = any(trial.spec.live for trial in self.plan.trials)
        return Limits(EXPERIMENT + self.experiment.name, live, scope_caps(self.experiment.cap))

    def trials(self) -> pl.DataFrame:
        """The table of the finished trials, in plan order."""
        return trials_frame(
            trial_row(trial, self.results[trial.spec.address], self.experiment.name, self.plan.prices)
            for trial in self.plan.trials
            if trial.spec.address in self.results
        )

    def calls(self) -> pl.DataFrame:
        """The table of all attempts of the finished trials, in plan order."""
        done = [trial.spec.address for trial in self.plan.trials if trial.spec.address in self.results]
        return calls_frame([(address, self.results[address]) for address in done])

    def manifest(self, command: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Manifest:
        """Where the tables come from."""
        packages = ("ostrom", "ray", "anyio", "trio", "openai", "genai-prices", "polars", "scipy")
        return Manifest(
            name=self.experiment.name,
            created=now().strftime("%Y-%m-%d %H:%M UTC"),
            revision=code_revision() + (f", forked from plan {self.forked_from[:12]}" if self.forked_from else ""),
            versions={"python": platform.python_version(), **{name: _version(name) for name in packages}},
            priced_by={name: self.runtime.catalog.priced_by(name) for name in self.plan.models},
            match=self.experiment.match,
            kind=self.plan.kind,
            command=command,
            seeds=list(self.experiment.seeds),
            planned=len(self.plan.trials),
            finished=len(self.results),
            floored=floored(attempt for result in self.results.values() for attempt in result.attempts),
            sha256=canonical_sha256(self.trials()),
        )


def code_revision() -> str:
    """Digest of the installed code of all four packages, so that two results can be told apart by the code that made them."""
    from importlib.util import find_spec
    from pathlib import Path

    digests = []
    for package in PACKAGES:
        found = find_spec(package)
        assert found is not None
        assert found.origin is not None
        root = Path(found.origin).parent
        digests += [
            [str(f.relative_to(root.parent)), f.read_text(encoding="utf-8")] for f in sorted(root.rglob("*.py"))
        ]
    return f"ostrom {_version('ostrom')}, code {address(digests)[:12]}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
