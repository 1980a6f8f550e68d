"""Owns the modes of a runtime, live, recording and replaying: how a run's ingredients become a checked spec in each."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from itertools import count
from pathlib import Path
from typing import Any

from runtime.addresses import run_address
from runtime.bank.grants import Limits, check_covered
from runtime.budget import Budget
from runtime.errors import ConfigError
from runtime.ids import address
from runtime.models.asked import first_text_difference
from runtime.models.base import ChatModel
from runtime.models.catalog import Catalog
from runtime.nesting import wired
from runtime.preflight import RunSpec, prepare
from runtime.recorder import Recorder, facts_of
from runtime.recording import RecordedRun, Recording
from runtime.recording_file import RecordingFile
from runtime.replay import Player
from runtime.shipping import Deliver, Done
from runtime.spread import equipment
from runtime.tape import NOTE, Tape, TapedSpec

OnBank = Callable[..., Awaitable[Any]]


class Live:
    """Runs call their models.

    Args:
        account: the limits of the account.
        stored: whether results outlive this process, so that each run needs an address.
    """

    replays = False

    def __init__(self, catalog: Catalog, account: Limits, *, stored: bool) -> None:
        self._catalog = catalog
        self._account = account
        self._stored = stored
        self._nameless = count(1)

    def limit(self, account: Limits) -> None:
        """Hold runs to these limits of the account: those of the store, where the caller named none."""
        self._account = account

    def spec(self, spec: RunSpec) -> RunSpec:
        """Check a run and give it its content address.

        Raises:
            ConfigError: see `runtime.preflight.prepare`; also a missing key.
        """
        prepared = prepare(spec, self._catalog.get)
        for name in prepared.models:
            missing = self._catalog.missing_key(name)
            if missing is not None:
                raise ConfigError(
                    f"model {name!r} needs its key in the environment variable {missing}, which is not set"
                )
        content = self._content(spec, prepared.models)
        if not prepared.virtual:
            check_covered(self._account.caps, spec.budget)
            # A virtual run of the same ingredients is the same run; a live one is another experience each time.
            content = address([content, spec.run_id])
        wanted = {equipment(agent) for agent in prepared.wiring.agents.values() if agent.resources}
        return replace(spec, address=content, live=not prepared.virtual, equipment=tuple(sorted(wanted)))

    def open(self) -> AbstractContextManager[object]:
        """What is open as long as the runtime is."""
        return nullcontext()

    def keeping(self, deliver: Deliver, on_bank: OnBank) -> Deliver:
        """Deliver, after what this mode keeps of finished runs is kept."""
        return deliver

    def _content(self, spec: RunSpec, models: Mapping[str, ChatModel]) -> str:
        try:
            return run_address(spec.topology, spec.task, spec.budget, spec.seed, models)
        except ConfigError:
            if self._stored:
                raise
            # A lambda, or a class of a notebook: nothing could find it again, and without a folder nothing has to.
            return address(["nameless", next(self._nameless)])


class Recorded(Live):
    """Runs call their models, and all of it is written into a file."""

    def __init__(self, catalog: Catalog, account: Limits, file: RecordingFile, *, stored: bool) -> None:
        super().__init__(catalog, account, stored=stored)
        self._file = file

    def spec(self, spec: RunSpec) -> RunSpec:
        """Check a run and give it its content address; its host is to record it."""
        return TapedSpec(**_fields(super().spec(spec)))

    def open(self) -> AbstractContextManager[object]:
        """The file."""
        return self._file

    def keeping(self, deliver: Deliver, on_bank: OnBank) -> Deliver:
        """Write runs into the file before they are delivered.

        Raises:
            ConfigError: from the function returned, for a run that was finished in this folder without being recorded.
        """

        async def kept(done: Sequence[Done]) -> None:
            for _, result in done:
                body: bytes | None = await on_bank("note", NOTE + result.run_id)
                if body is None:
                    raise ConfigError(
                        f"run {result.run_id} was finished in this folder before, and was not recorded then; record into "
                        "another folder, or give the run another run_id"
                    )
                self._file.add(body)
            await deliver(done)

        return kept


class Replayed(Live):
    """Runs get the replies and decisions of recorded ones; nothing is called and nobody is billed."""

    replays = True

    def __init__(self, catalog: Catalog, account: Limits, recording: Recording, *, stored: bool) -> None:
        super().__init__(catalog, account, stored=stored)
        self._recording = recording
        self._turns: dict[str, Iterator[int]] = {}

    def spec(self, spec: RunSpec) -> RunSpec:
        """Find the recorded run of these ingredients: by its name, else by what it is made of.

        Several of the same ingredients are taken in turn.

        Raises:
            ConfigError: there is none; says what differs.
        """
        run = self._recording.runs.get(spec.run_id) or self._same(spec)
        spec = replace(spec, run_id=spec.run_id or run.run_id)
        wrong = _differing(run, spec)
        if wrong:
            raise ConfigError(f"run {run.run_id} was recorded with other ingredients: {'; '.join(wrong)}")
        prepared = Player(spec, run).prepare(self._catalog.get)
        # The first digits are those of the recorded run, because experiments name their runs by them; the rest tells a
        # replay from the run itself, and from replays of other code.
        told = run.address[:16] + address(["replay", run.address, self._content(spec, prepared.models)])[16:]
        return TapedSpec(**_fields(replace(spec, address=told, live=False)), recorded=run)

    def _same(self, spec: RunSpec) -> RecordedRun:
        found = {run.run_id: _differing(run, spec) for run in self._recording.runs.values()}
        equal = [name for name, wrong in found.items() if not wrong]
        if not equal:
            nearest = min(found, key=lambda name: len(found[name]))
            raise ConfigError(
                f"no recorded run has these ingredients; nearest is {nearest}, where {'; '.join(found[nearest])}"
            )
        turn = next(self._turns.setdefault(equal[0], count()))
        return self._recording.runs[equal[turn % len(equal)]]


def tape_of(spec: RunSpec) -> Tape | None:
    """What a host lays into a run of this spec; None for one that is neither recorded nor replayed."""
    if not isinstance(spec, TapedSpec):
        return None
    return Recorder(spec) if spec.recorded is None else Player(spec, spec.recorded)


def mode_of(
    catalog: Catalog,
    account: Limits,
    record: Path | str | RecordingFile | None,
    replay: Path | str | Recording | None,
    *,
    stored: bool,
) -> Live:
    """The mode that a runtime is asked for.

    Raises:
        ConfigError: two modes at once, or a file that is no recording.
    """
    if record is not None and replay is not None:
        raise ConfigError("Runtime: record= and replay= exclude each other; what is replayed is recorded already")
    if record is not None:
        file = record if isinstance(record, RecordingFile) else RecordingFile(record)
        return Recorded(catalog, account, file, stored=stored)
    if replay is not None:
        recording = replay if isinstance(replay, Recording) else Recording.load(replay)
        return Replayed(catalog, account, recording, stored=stored)
    return Live(catalog, account, stored=stored)


def _differing(run: RecordedRun, spec: RunSpec) -> list[str]:
    """What of a run's ingredients is not as recorded; empty where all is."""
    wrong = []
    if spec.task.address != run.task["address"]:
        if spec.task.prompt == run.task["prompt"]:
            wrong.append(f"task {spec.task.id} has another answer, check or family")
        else:
            where = first_text_difference(run.task["prompt"], spec.task.prompt)
            wrong.append(f"the prompt of task {spec.task.id} differs {where}")
    facts = facts_of(spec.topology.name, wired(spec.topology))
    wrong += [
        f"{what}: recorded {run.topology[what]}, now {facts[what]}"
        for what in ("name", "ceilings")
        if facts[what] != run.topology[what]
    ]
    wrong += _differing_seats(run.topology["seats"], facts["seats"])
    if spec.budget != run.budget and _plain(spec.budget) != _plain(run.budget):
        wrong.append(f"the budget: recorded {run.budget.describe()}, now {spec.budget.describe()}")
    if spec.seed != run.seed:
        wrong.append(f"the seed: recorded {run.seed}, now {spec.seed}")
    return wrong


def _differing_seats(before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]) -> list[str]:
    wrong = [f"seat {seat} was not recorded" for seat in now if seat not in before]
    wrong += [f"seat {seat} is missing" for seat in before if seat not in now]
    wrong += [
        f"seat {seat}: {what} recorded {before[seat][what]!r}, now {now[seat][what]!r}"
        for seat in now
        if seat in before
        for what in now[seat]
        if now[seat][what] != before[seat][what]
    ]
    return wrong[:3] + ([f"and {len(wrong) - 3} more seats"] if len(wrong) > 3 else [])


def _plain(budget: Budget) -> tuple[object, ...]:
    return budget.dimensions, budget.caps, budget.seconds


def _fields(spec: RunSpec) -> dict[str, Any]:
    return {f.name: getattr(spec, f.name) for f in fields(RunSpec)}
