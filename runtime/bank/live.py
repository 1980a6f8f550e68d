"""Owns the durable journal of one live run, and how its interrupted life is taken up again.

Before bytes leave, an entry `sent` is committed with the bound that is held; with the reply comes an entry that closes it.
Where no reply comes of it, because the budget does not suffice or the model fails for good, that is committed before whoever
asked is told. After a crash the entries are folded: what was answered answers again at no cost, what was refused or failed
does so again even where budget has come since, for all that followed rests on it, and what was only sent is charged at
maximum, because nobody can prove that the provider did not bill it, and is asked again as a new try.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import orjson

from runtime.bank.book import AttemptId, Held, Need
from runtime.bank.client import BankClient
from runtime.bank.ledger import Ledger
from runtime.bank.store import Entry
from runtime.bank.vector import Vector, pack, unpack
from runtime.budget import Amounts
from runtime.errors import ConfigError, OrchestrationError, RunHalted, StaleEpoch, error_of, told
from runtime.journal import Attempt, Key, State, attempt_of
from runtime.models.base import ChatReply, reply_of
from runtime.order import INSIDE, Order

_NO_TRY = -1
"""In the place of a try's number, where an entry is about the work and no single try."""


class Life(NamedTuple):
    """What the host that takes a live run over gets to know."""

    epoch: int
    entries: list[Entry]
    """What earlier lives wrote."""
    raised: list[Amounts]
    """Top-ups of its budget, in its own dimensions."""
    sealed: bytes | None = None
    """Its result, where it is finished already: then there is nothing to take."""


class History:
    """What earlier lives of a live run wrote, folded: the last entry of each attempt counts.

    Args:
        n: number of dimensions of the run's budget.
    """

    def __init__(self, entries: Sequence[Entry], n: int) -> None:
        self._n = n
        self._last: dict[AttemptId, tuple[dict[str, Any], Entry]] = {}
        self.told: dict[Key, tuple[str, ChatReply | OrchestrationError]] = {}
        """By key, with the digest of its request, the reply that came; or what whoever asked was told instead."""
        self.inside: dict[Key, dict[str, int]] = {}
        """By tool call, how far seats had come that were asked by the tool."""
        for entry in entries:
            step, path = entry.key.split("/", 1)
            seat, sample = path.rsplit("/", 1)
            id = AttemptId(Key(int(step), seat, int(sample)), entry.try_)
            body = orjson.loads(entry.body)
            for tool in body.get("inside", ()):
                steps = self.inside.setdefault(Key(*tool), {})
                steps[id.key.seat] = max(steps.get(id.key.seat, 0), id.key.step + 1)
            if entry.state == "unanswered":
                self.told[id.key] = (body["digest"], error_of(*body["error"]))
                continue
            sent, _ = self._last.get(id, ({}, entry))
            self._last[id] = (body if "limits" in body else sent, entry)
            if body.get("reply") is not None:
                self.told[id.key] = (body["digest"], reply_of(*body["reply"]))

    def restore(self, ledger: Ledger, scope: str) -> list[Attempt]:
        """Bring a fresh ledger to where the earlier lives ended, and return their attempts.

        What they left open belongs to an epoch that is over: what was only sent is charged at maximum.
        """
        rows = []
        for id, (sent, entry) in self._last.items():
            if "limits" not in sent:
                continue  # the store refused `sent`, so nothing left, and took only what came after
            body = orjson.loads(entry.body)
            most, least, units = sent["limits"]
            need = Need(pack(tuple(sent["fixed"])), pack(tuple(sent["per_unit"])), most, least)
            charged = None if body.get("charged") is None else pack(tuple(body["charged"]))
            # Where a ledger knows the run alone, what was held below it counts in the run.
            place = sent["scope"] if sent["scope"] in ledger.scopes else scope
            ledger.restore(id, place, need, pack(tuple(sent["floor"])), units, cast(State, entry.state), charged)
            lost = "row" not in body
            rows.append(_lost_row(id, sent, need, units, self._n) if lost else attempt_of(body["row"]))
        ledger.expire(scope)
        return rows


class LiveJournal:
    """Journal of one live run.

    Args:
        life: this host's epoch, and what earlier lives of the run wrote.
        n: number of dimensions of the run's budget.
    """

    def __init__(self, run_id: str, client: BankClient, life: Life, n: int) -> None:
        self.halted: RunHalted | StaleEpoch | None = None
        self.history = History(life.entries, n)
        self._run_id = run_id
        self._client = client
        self._epoch = life.epoch
        self._n = n

    async def sent(self, held: Held, need: Need, order: Order, digest: str, began_s: float) -> None:
        """Commit that the bytes are about to leave, with the bound that is held and the run's own time."""
        body = {
            "digest": digest,
            "order": [order.kind, order.name, order.senders],
            "fixed": unpack(need.fixed, self._n),
            "per_unit": unpack(need.per_unit, self._n),
            "limits": [need.most, need.least, held.units],
            "floor": unpack(order.floor, self._n),
            "scope": order.scope,
            "at_s": began_s,
            "inside": INSIDE.get(),
        }
        await self._write_unless_halted(self._entry(held.id, "sent", body))

    async def closed(
        self,
        row: Attempt,
        charged: Vector | None,
        reply: ChatReply | None,
        digest: str,
        failed: OrchestrationError | None,
    ) -> None:
        """Commit how the attempt ended, what it was charged, and its reply, if one came, or why it cannot be used."""
        body = {
            "digest": digest,
            "row": list(row),
            "charged": None if charged is None else unpack(charged, self._n),
            "reply": None if reply is None else _parts(reply),
        }
        id = AttemptId(Key(row.step, row.seat, row.sample), row.try_)
        closed = self._entry(id, row.state, body)
        if failed is not None:
            try:
                # In one commit: there is no other try at what is settled.
                await self._client.write([closed, self._unanswered(id.key, digest, failed)])
            except StaleEpoch as error:
                self.halted = error  # what it was billed counts all the same
            else:
                return
        await self._client.write([closed])

    async def unanswered(self, key: Key, digest: str, error: OrchestrationError) -> None:
        """Commit that a piece of work gets no reply, before its asker is told so and goes on."""
        await self._write_unless_halted(self._unanswered(key, digest, error))

    def replay(self, key: Key, digest: str) -> ChatReply | None:
        """The reply to a piece of work in an earlier life; None where that life was told nothing.

        Raises:
            ConfigError: the request is another one, so this is not the same run.
            OrchestrationError: that life was told this error instead.
        """
        known, answer = self.history.told.get(key, (digest, None))
        if known != digest:
            raise ConfigError(
                f"run {self._run_id}: the request of step {key.step} of {key.seat} differs from the one in the store; "
                "a resumed run must use the same task, topology, prompts and models"
            )
        if isinstance(answer, OrchestrationError):
            raise answer
        return answer

    def asked_inside(self, tool: Key) -> Mapping[str, int]:
        """The next step of each seat that a tool call of an earlier life asked, as far as it had come then."""
        return self.history.inside.get(tool, {})

    async def _write_unless_halted(self, entry: Entry) -> None:
        try:
            await self._client.write([entry])
        except (RunHalted, StaleEpoch) as error:
            self.halted = error
            raise

    def _unanswered(self, key: Key, digest: str, error: OrchestrationError) -> Entry:
        body = {"digest": digest, "error": told(error), "inside": INSIDE.get()}
        return self._entry(AttemptId(key, _NO_TRY), "unanswered", body)

    def _entry(self, id: AttemptId, state: Any, body: dict[str, Any]) -> Entry:
        name = f"{id.key.step}/{id.key.seat}/{id.key.sample}"
        return Entry(self._run_id, self._epoch, name, id.try_, state, orjson.dumps(body, default=tuple))


def _parts(reply: ChatReply) -> list[Any]:
    """What `reply_of` takes."""
    return [reply.text, reply.usage, reply.finish, reply.tool_calls, reply.floored, reply.logprobs]


def _lost_row(id: AttemptId, sent: dict[str, Any], need: Need, units: int, n: int) -> Attempt:
    """The row of an attempt of which only `sent` is known: nobody knows how long after it the life ended."""
    kind, name, senders = sent["order"]
    at_s = sent.get("at_s", 0.0)  # older entries do not tell
    tokens, pico, _, tool_units = unpack(need.at(units), n)[:4]
    charged, held = (0, tokens, pico, tool_units), (tokens, pico, units, need.most)
    return Attempt(*id.key, id.try_, kind, name, "charged_max", *charged, *held, at_s, at_s, "", "", tuple(senders))
