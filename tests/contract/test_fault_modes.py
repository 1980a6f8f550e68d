"""Every way an endpoint can go wrong, as a whole run meets it: it ends in time, asks as often as it says, and owes no more."""

import anyio
import pytest

from runtime.bank.vector import unpack
from runtime.budget import Budget
from runtime.driver import Runtime
from runtime.models.server.accounts import Account
from runtime.models.spec import ModelSpec
from runtime.result import RunResult
from runtime.run import SCOPE, Run
from runtime.task import Task
from runtime.testing import MODES, HostileEndpoint
from runtime.usage import Usage
from topologies import Single

pytestmark = pytest.mark.anyio

DEADLINE_S = 6.0
CAP_TOKENS = 60_000
NAMES = [f"fault/{mode}" for mode in MODES]
LESS_THAN_IT_BILLS = {"underreport", "usage-zero"}
"""Modes whose endpoint states less than it bills for; a client that sees only the answer cannot know the rest."""
ABOVE_ITS_HOLD = {"overshoot"}
"""Its endpoint passes the limit it was given: no hold can foresee that, and it is booked when the answer is there."""


def spec(endpoint: HostileEndpoint, name: str, *, stream: bool) -> ModelSpec:
    return ModelSpec(
        endpoint=endpoint.base_url,
        model=name,
        key_env="",
        input_usd=1,
        output_usd=2,
        window_tokens=8_192,
        limit_field="max_tokens",
        timeout_s=1.0,
        stream=stream,
    )


class Oracle:
    """At each bill of the server, before the answer leaves: how far all its bills to a run pass what the run has booked."""

    def __init__(self, endpoint: HostileEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
        self.behind: dict[str, int] = {}
        self.bills = 0
        self._runs: dict[str, Run] = {}
        self._accounts = endpoint._service.books.accounts
        make, bill = Run.__post_init__, Account.bill

        def made(run: Run) -> None:
            make(run)
            self._runs[NAMES[int(run.prepared.spec.run_id[1:])]] = run

        def billed(account: Account, usage: Usage | None) -> None:
            bill(account, usage)
            self._look(account)

        monkeypatch.setattr(Run, "__post_init__", made)
        monkeypatch.setattr(Account, "bill", billed)

    def _look(self, account: Account) -> None:
        (name,) = (name for name, known in self._accounts.items() if known is account)
        scope = self._runs[name].ledger.scopes[SCOPE]
        # The server is another thread, so it may look in the middle of a settlement; what is really missing stays missing.
        booked = max(unpack(scope.settled, 1)[0] + unpack(scope.held, 1)[0] for _ in range(3))
        self.bills += 1
        self.behind[name] = max(self.behind.get(name, 0), account.tokens - booked)


async def all_modes(endpoint: HostileEndpoint, *, stream: bool) -> dict[str, RunResult]:
    """One run against each mode, all at once."""
    models = {f"m{i}": spec(endpoint, name, stream=stream) for i, name in enumerate(NAMES)}
    results: dict[str, RunResult] = {}
    async with Runtime(models=models) as runtime:
        specs = [
            runtime.spec(
                model, Single(model=model), Task("How many?"), Budget(tokens=CAP_TOKENS, seconds=DEADLINE_S), 0
            )
            for model in models
        ]
        async for run, result in runtime.map(specs):
            results[NAMES[int(run.run_id[1:])]] = result
    return results


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_a_run_meets_every_fault_and_its_books_hold(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # What one mode does to its callers is to hold up no other: here, it would until the deadline.
    monkeypatch.setattr("runtime.models.governor.limits_each_model", lambda endpoint: True)
    async with HostileEndpoint() as endpoint:
        oracle = Oracle(endpoint, monkeypatch)
        with anyio.fail_after(60):
            results = await all_modes(endpoint, stream=stream)
        accounts = {name: endpoint.account(name) for name in NAMES}
        trapped = endpoint.trapped

    assert set(results) == set(NAMES)
    assert trapped == 0, "a redirect was followed"
    assert oracle.bills > len(NAMES) / 2
    for name, result in results.items():
        asked, account = len(result.attempts), accounts[name]
        told = (name, result.status, result.reason, asked, account)
        assert result.status in {"completed", "failed", "deadline", "exhausted"}, told
        assert result.status == "completed" or result.reason, told
        assert asked == account.requests, told
        mode = name.removeprefix("fault/").split(":")[0]
        if mode not in LESS_THAN_IT_BILLS:
            assert account.tokens <= result.spend.total.tokens, told
            assert oracle.behind.get(name, 0) == 0 or mode in ABOVE_ITS_HOLD, told
        assert sum(spend.tokens for spend in result.spend.by_agent.values()) == result.spend.total.tokens
        assert all(over == 0 for over in result.overspend.values()) or result.spend.total.tokens > CAP_TOKENS, told
