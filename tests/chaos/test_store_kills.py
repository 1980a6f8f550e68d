"""Kill -9 of a process that does nothing but commit: what it said was committed is there, once, in order."""

import os
import random
import select
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from runtime.bank.store import Entry, Store

ROUNDS = 200
LIMIT_S = 60
COMMITTING = """
import os
import sys
from itertools import count
from pathlib import Path
from runtime.bank.store import *

path, first, end = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
store = Store(path)
for n in count(first):
    # From a few bytes to several pages, so that the log is moved into the file in between.
    body = b"%d " % n * (n * n % 1009)
    store.commit([Entry("run", first, str(n), 1, "sent", body), Note("last", b"%d" % n)], durable=n % 3 == 0)
    os.write(1, b"%d\\n" % n)
    if n % 25 == end:
        store.close()
        os.write(1, b"%d\\n" % n)
        if n % 50 == end:
            compacted(path, keep_runs=None)
        store = Store(path)
"""


def body_of(n: int) -> bytes:
    return b"%d " % n * (n * n % 1009)


def acknowledged_before_kill(path: Path, first: int, rng: random.Random) -> int:
    """Let a process commit from this number on, kill it at a random moment, and return the first number that it did not
    acknowledge."""
    n_acks, within_s = rng.randrange(60), rng.random() / 250
    process = subprocess.Popen(
        [sys.executable, "-c", COMMITTING, str(path), str(first), str(rng.randrange(25))], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        pipe, said = process.stdout.fileno(), b""
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while said.count(b"\n") < n_acks:
            assert poll.poll(LIMIT_S * 1000), "it does nothing"
            more = os.read(pipe, 1 << 16)
            assert more, "it ended by itself"
            said += more
        # Not a wait for anything: the kill has to come at any moment, not just after an acknowledgement.
        select.select([], [], [], within_s)
    finally:
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == -signal.SIGKILL
    numbers = [int(line) for line in (said + rest).split()]
    return max(numbers, default=first - 1) + 1


def rounds_of_kills(path: Path, n_rounds: int, seed: int) -> Counter[str]:
    """Kill the driver of one store again and again; count what was seen."""
    rng = random.Random(seed)
    seen: Counter[str] = Counter()
    acknowledged = 0
    for number in range(n_rounds):
        first, acknowledged = acknowledged, acknowledged_before_kill(path, acknowledged, rng)
        was_logged = path.exists() and path.with_name(f"{path.name}-wal").exists()
        with Store(path, read_only=True) if number % 2 and path.exists() else Store(path) as store:
            entries = store.entries("run")
            in_doubt = len(entries) - acknowledged
            assert [entry.key for entry in entries] == [str(n) for n in range(len(entries))]
            assert all(entry.body == body_of(n) for n, entry in enumerate(entries))
            assert in_doubt in {0, 1}
            assert store.note("last") == (b"%d" % (len(entries) - 1) if entries else None)
        if in_doubt:
            # Whoever did not hear of it asks again, under another epoch, and finds it.
            with Store(path) as store:
                store.commit([Entry("run", number, str(acknowledged), 1, "sent", body_of(acknowledged))])
                assert store.entries("run") == entries
            acknowledged += 1
        seen += Counter(kills=1, commits=acknowledged - first, in_doubt=in_doubt, unclosed=was_logged)
    return seen


@pytest.mark.chaos
def test_two_hundred_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    seen = rounds_of_kills(tmp_path / "s.db", ROUNDS, seed=200)
    print(dict(seen))
    assert seen["kills"] == ROUNDS
    assert seen["commits"] > 20 * ROUNDS
    assert seen["in_doubt"] > 0, "no kill fell between a commit and its word"
