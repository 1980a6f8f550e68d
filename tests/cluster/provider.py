"""A provider that bills on its own: a program that listens on loopback, the test's hold on it, the model that calls it, and
the store's books to lay beside its bills.

It bills a call when the request arrives, whatever becomes of the answer, and tells every bill to whoever started it, on its
standard output. No host, bank or driver has a hand in that, so it is the witness against the books. Times are those of the
machine's monotonic clock, which all processes share.
"""

import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import orjson
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from runtime import Agent, Task
from runtime.bank.book import AttemptId
from runtime.bank.recovery import read_grants
from runtime.bank.service import STORE_FILE
from runtime.bank.store import Store
from runtime.bank.vector import unpack
from runtime.errors import BudgetExceeded
from runtime.journal import Key
from runtime.messages import Report, reply_json
from runtime.models.base import ChatReply, ChatRequest
from runtime.models.scripted import ScriptedModel
from runtime.protocols import Outcome, Team
from runtime.usage import Price, Usage
from topologies import Topology

PICO_PER_TOKEN = 2_000_000
HOLD = Usage(4_000, 6_000)
"""The most that a call can cost, and what dear ones do cost."""
LIMIT_S = 120
_WHO = re.compile(r"\[\[(.+?)\]\]")


class Bill(NamedTuple):
    """One call, as the provider saw it."""

    n: int
    """Its number, over all calls."""
    who: str
    pid: int
    """Of the host that called."""
    tokens: int
    at_s: float
    gap_s: float
    """Since the last answer to the same caller; 0 for the first call. Above what its own loop takes, it waited for the bank."""


def question(who: str) -> Task:
    """A task whose calls are billed to this name."""
    return Task(f"[[{who}]] What is six times seven?", "42", id=who)


def _modest(request: ChatRequest) -> ChatReply:
    used = 100 + request.seed % 901
    return ChatReply(reply_json(Report("42")), Usage(used // 2, used - used // 2))


CROWD = ScriptedModel(_modest, input_tokens=500, output_tokens=500, latency_s=0.05, name="crowd")
"""A virtual model whose calls use 100 to 1,000 of the 1,000 tokens that they hold, by the seed of the request."""


class Steady(Topology):
    """Agents that go on, each by itself, until nothing more fits. What they were refused is the answer, as JSON.

    Args:
        mark: another one makes other runs of the same outcome.
    """

    def __init__(self, model: str, n: int = 1, mark: str = "") -> None:
        self.mark = mark
        super().__init__(f"Steady({n})", {f"agent[{i}]": Agent("executor", model=model) for i in range(n)})

    async def solve(self, task: Task, team: Team) -> Outcome:
        refusals: list[tuple[str, int, int]] = []

        async def go_on(seat: str) -> None:
            try:
                while True:
                    await team.ask(seat, task)
            except BudgetExceeded as error:
                refusals.append((error.dimension, error.need, error.left))

        async with anyio.create_task_group() as group:
            for seat in self.seats():
                group.start_soon(go_on, seat)
        return Report(json.dumps(sorted(refusals)))


class Billed:
    """A live model at that provider.

    Args:
        latency_s: how long the provider takes.
    """

    virtual = False
    shrinkable = False
    naps = True
    window_tokens = 100_000
    price: Price | None = Price(PICO_PER_TOKEN, PICO_PER_TOKEN)

    def __init__(self, name: str, port: int, latency_s: float) -> None:
        self.name = name
        self._port = port
        self._latency_s = latency_s

    @property
    def settings(self) -> object:
        return [self._port, self._latency_s]

    def bound(self, request: ChatRequest) -> Usage:
        return HOLD

    async def complete(self, request: ChatRequest) -> ChatReply:
        (who,) = set(_WHO.findall(request.messages[-1].content))
        call = {"who": who, "pid": os.getpid(), "latency_s": self._latency_s}
        async with await anyio.connect_tcp("127.0.0.1", self._port) as stream:
            await stream.send(json.dumps(call).encode() + b"\n")
            line = await BufferedByteReceiveStream(stream).receive_until(b"\n", 1_000)
        return ChatReply(reply_json(Report("42")), Usage(*json.loads(line)))


class Provider:
    """A test's hold on the program, which is started here and ends with `close`."""

    def __init__(self) -> None:
        self._program = subprocess.Popen(
            [sys.executable, "-P", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._news = threading.Condition()
        self._bills: list[Bill] = []
        self._commands = self._obeyed = 0
        self._ended = False
        assert self._program.stdout is not None
        self.port = int(self._program.stdout.readline())
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def model(self, name: str, latency_s: float) -> Billed:
        """A model that it serves."""
        return Billed(name, self.port, latency_s)

    def bills(self, prefix: str = "") -> list[Bill]:
        """All that it billed to names with this beginning before it heard this question."""
        self._tell("nothing")
        with self._news:
            return [bill for bill in self._bills if bill.who.startswith(prefix)]

    def wait_until(self, holds: Callable[[list[Bill]], Any], prefix: str = "") -> list[Bill]:
        """Wait for bills of these names until this holds of them."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            with self._news:
                bills = [bill for bill in self._bills if bill.who.startswith(prefix)]
                if holds(bills):
                    return bills
                assert not self._ended, "the provider ended"
                assert self._news.wait(deadline - time.monotonic()), (
                    f"not true of the bills of {prefix!r}: {bills[-3:]}"
                )

    def wait_for(self, n: int, prefix: str = "", *, unless: Future[Any] | None = None) -> list[Bill]:
        """Wait for n more bills of these names, or until `unless` is done; returns those."""
        before = len(self.bills(prefix))
        if unless is not None:
            unless.add_done_callback(self._wake)
        return self.wait_until(
            lambda bills: len(bills) >= before + n or (unless is not None and unless.done()), prefix
        )[before:]

    def make_dear(self, prefix: str, least: float = 1.0) -> None:
        """Let calls of these names cost at least this share of the most they can, from now on."""
        self._tell("dear", prefix, least)

    def keep(self, prefix: str) -> None:
        """Bill, but keep the answers to these names, from now on."""
        self._tell("keep", prefix)

    def answer(self, bill: Bill) -> None:
        """Give one answer that was kept."""
        self._tell("answer", bill.n)

    def keep_no_more(self, prefix: str) -> None:
        """Keep no more answers to these names; those that are kept stay so."""
        self._tell("keep no more", prefix)

    def close(self) -> None:
        """End the program."""
        self._program.terminate()
        self._program.communicate(timeout=LIMIT_S)
        self._reader.join()

    def _tell(self, *what: object) -> None:
        """Give a command, and wait until it is obeyed; all that the program said before that has arrived then."""
        assert self._program.stdin is not None
        with self._news:
            self._commands += 1
            mine = self._commands
            self._program.stdin.write(json.dumps(what) + "\n")
            self._program.stdin.flush()
            assert self._news.wait_for(lambda: self._obeyed >= mine or self._ended, LIMIT_S)

    def _wake(self, _: object) -> None:
        with self._news:
            self._news.notify_all()

    def _read(self) -> None:
        assert self._program.stdout is not None
        for line in self._program.stdout:
            told = json.loads(line)
            with self._news:
                if isinstance(told, dict):
                    self._bills.append(Bill(**told))
                else:
                    self._obeyed += 1
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()


class Folded(NamedTuple):
    """One attempt of a live run as the store has it."""

    states: tuple[str, ...]
    """All that were written, in their order."""
    tokens: int
    """What it counts for: the true figure, or all that was held."""


class Sums(NamedTuple):
    """Tokens of one run: what the provider billed, what the books say, and how many calls were charged whole."""

    billed: int
    booked: int
    n_lost: int


class Books:
    """What the store says, read anew from its file."""

    def __init__(self, folder: Path) -> None:
        self._store = Store(folder / STORE_FILE, read_only=True)
        self._grants = read_grants(self._store)

    def attempts(self, run_id: str) -> dict[tuple[str, int], Folded]:
        """The fold of a run's entries, by key and try."""
        states: dict[tuple[str, int], list[str]] = {}
        tokens: dict[tuple[str, int], int] = {}
        for entry in self._store.entries(run_id):
            if entry.state == "unanswered":
                continue  # about the work, and no attempt
            id, body = (entry.key, entry.try_), orjson.loads(entry.body)
            states.setdefault(id, []).append(entry.state)
            match entry.state:
                case "sent":
                    tokens.setdefault(id, body["fixed"][0] + body["per_unit"][0] * body["limits"][2])
                case "settled":
                    tokens[id] = body["charged"][0]
                case "released":
                    tokens[id] = 0
        return {id: Folded(tuple(found), tokens[id]) for id, found in states.items()}

    def tokens(self, run_id: str) -> int:
        """What a run counts for by that fold."""
        return sum(attempt.tokens for attempt in self.attempts(run_id).values())

    def sums(self, run_id: str, bills: list[Bill]) -> Sums:
        """A run's sums, after a look at every call: known to the books at its true figure, or within a hold charged whole."""
        attempts = self.attempts(run_id)
        billed = Counter(bill.tokens for bill in bills)
        known = Counter(a.tokens for a in attempts.values() if a.states == ("sent", "settled"))
        lost = [a for a in attempts.values() if a.states == ("sent",)]
        assert known <= billed, "the books know only calls that were billed"
        assert billed.total() - known.total() <= len(lost), "what they do not know was noted before it left"
        assert known.total() + len(lost) == len(attempts)
        assert all(a.tokens == HOLD.tokens for a in lost)
        return Sums(sum(billed.elements()), self.tokens(run_id), len(lost))

    def above(self, run_id: str) -> int:
        """What a run counts for in the books above the runs: what is held for it, or charged."""
        records = self._grants.ledger.records()
        mine = [r for r in records if r.id.key.seat == run_id or r.id.key.seat.startswith(run_id + "/")]
        return sum(unpack(r.amounts if r.is_open else r.charged or 0, 1)[0] for r in mine)

    def state_above(self, run_id: str) -> str:
        """The state of a run's grant in those books."""
        return self._grants.ledger.record(AttemptId(Key(0, run_id, 0), 0)).state

    def was_granted(self, run_id: str) -> bool:
        """Whether a run was ever let in under a cap, or has a place in those books because it was sealed."""
        return any(record.id == AttemptId(Key(0, run_id, 0), 0) for record in self._grants.ledger.records())

    def open_runs(self) -> list[str]:
        """Live runs that were begun and not sealed."""
        return [opened.run_id for opened in self._store.opened()]

    def is_sealed(self, run_id: str) -> bool:
        return self._store.result(run_id) is not None

    def close(self) -> None:
        """Let go of the file."""
        self._store.close()


class _Serving:
    """What the program does."""

    def __init__(self) -> None:
        self._n = 0
        self._calls: dict[str, int] = {}
        self._answered_s: dict[str, float] = {}
        self._dear: dict[str, float] = {}
        self._kept: tuple[str, ...] = ()
        self._waiting: dict[int, anyio.Event] = {}

    async def run(self) -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        print(listener.extra(anyio.abc.SocketAttribute.local_port), flush=True)
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, self._serve)
            async for line in anyio.wrap_file(sys.stdin):
                self._obey(*json.loads(line))
                print(line.strip(), flush=True)
            group.cancel_scope.cancel()

    def _obey(self, *what: Any) -> None:
        match what:
            case "dear", prefix, least:
                self._dear[prefix] = least
            case "keep", prefix:
                self._kept += (prefix,)
            case "answer", n:
                self._waiting.pop(n).set()
            case "keep no more", prefix:
                self._kept = tuple(kept for kept in self._kept if kept != prefix)

    async def _serve(self, stream: SocketStream) -> None:
        async with stream:
            try:
                call = json.loads(await BufferedByteReceiveStream(stream).receive_until(b"\n", 1_000))
                usage, who, n = self._bill(call["who"], call["pid"])
                if who.startswith(self._kept):
                    self._waiting[n] = kept = anyio.Event()
                    await kept.wait()
                await anyio.sleep(call["latency_s"])
                await stream.send(json.dumps(usage).encode() + b"\n")
                self._answered_s[who] = time.monotonic()
            except (anyio.BrokenResourceError, anyio.IncompleteRead, anyio.EndOfStream):
                pass  # the host was killed; what was billed stays billed

    def _bill(self, who: str, pid: int) -> tuple[Usage, str, int]:
        now_s = time.monotonic()
        self._n += 1
        turn = self._calls[who] = self._calls.get(who, 0) + 1
        least = next((least for prefix, least in self._dear.items() if who.startswith(prefix)), None)
        rng = random.Random(f"{who}/{turn}")
        usage = Usage(rng.randint(1, 40), rng.randint(1, 60))
        if least is not None:
            usage = Usage(*(round(most * rng.uniform(least, 1)) for most in HOLD[:2]))
        gap_s = now_s - self._answered_s[who] if who in self._answered_s else 0.0
        print(json.dumps(Bill(self._n, who, pid, usage.tokens, now_s, gap_s)._asdict()), flush=True)
        return usage, who, self._n


if __name__ == "__main__":
    anyio.run(_Serving().run)
