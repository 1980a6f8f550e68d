"""Owns the durable journal of one live run, and how its interrupted life is taken up again.

Before bytes leave, an entry `sent` is committed with the bound that is held; with the reply comes an entry that closes it.
After a crash the entries are folded: what was answered answers again at no cost, what was only sent is charged at maximum,
because nobody can prove that the provider did not bill it, and is asked again as a new try.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from runtime.bank.book import AttemptId, Held, Need
from runtime.bank.client import BankClient
from runtime.bank.ledger import Ledger
from runtime.bank.store import Entry
from runtime.bank.vector import Vector, pack, unpack
from runtime.budget import Amounts
from runtime.errors import BadModelReply, ConfigError, RunHalted, StaleEpoch
from runtime.journal import Attempt, Key, attempt_of
from runtime.models.base import ChatReply, reply_of

if TYPE_CHECKING:
    from runtime.attempts import Order


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
        self.answered: dict[Key, tuple[str, ChatReply | BadModelReply]] = {}
        """Replies by key, usable or not, each with the digest of its request."""
        for entry in entries:
            step, path = entry.key.split("/", 1)
            seat, sample = path.rsplit("/", 1)
            id = AttemptId(Key(int(step), seat, int(sample)), entry.try_)
            body = orjson.loads(entry.body)
            sent, _ = self._last.get(id, ({}, entry))
            self._last[id] = (body if "limits" in body else sent, entry)
            if body.get("reply") is not None:
                self.answered[id.key] = (body["digest"], reply_of(*body["reply"]))
            elif body.get("failed"):
                self.answered[id.key] = (body["digest"], BadModelReply(body["row"][5], body["failed"]))

    def gone_without(self, key: Key) -> bool:
        """Whether a later attempt of the seat is known, and no reply to this one; a seat makes one after the other."""
        return key not in self.answered and any(id.key.seat == key.seat and id.key.step > key.step for id in self._last)

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
            ledger.restore(id, place, need, pack(tuple(sent["floor"])), units, entry.state, charged)
            lost = "row" not in body
            rows.append(_lost_row(id, sent["order"], need, units, self._n) if lost else attempt_of(body["row"]))
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

    async def sent(self, held: Held, need: Need, order: "Order", digest: str) -> None:
        """Commit that the bytes are about to leave, with the bound that is held."""
        body = {
            "digest": digest,
            "order": [order.kind, order.name, order.senders],
            "fixed": unpack(need.fixed, self._n),
            "per_unit": unpack(need.per_unit, self._n),
            "limits": [need.most, need.least, held.units],
            "floor": unpack(order.floor, self._n),
            "scope": order.scope,
        }
        try:
            await self._client.write([self._entry(held.id, "sent", body)])
        except (RunHalted, StaleEpoch) as error:
            self.halted = error
            raise

    async def closed(
        self, row: Attempt, charged: Vector | None, reply: ChatReply | None, digest: str, failed: str = ""
    ) -> None:
        """Commit how the attempt ended, what it was charged, and its reply, if one came, or why it cannot be used."""
        body = {
            "digest": digest,
            "row": list(row),
            "charged": None if charged is None else unpack(charged, self._n),
            "failed": failed,
            "reply": None if reply is None else _parts(reply),
        }
        id = AttemptId(Key(row.step, row.seat, row.sample), row.try_)
        await self._client.write([self._entry(id, row.state, body)])

    def replay(self, key: Key, digest: str) -> ChatReply | None:
        """The reply an attempt got in the earlier life; None where it got none.

        Raises:
            ConfigError: the request is another one, so this is not the same run.
            BadModelReply: what it got could not be used.
        """
        known, reply = self.history.answered.get(key, (digest, None))
        if known != digest:
            raise ConfigError(
                f"run {self._run_id}: the request of step {key.step} of {key.seat} differs from the one in the store; "
                "a resumed run must use the same task, topology, prompts and models"
            )
        if isinstance(reply, BadModelReply):
            raise reply
        return reply

    def gone_without(self, key: Key) -> bool:
        """Whether an earlier life of this run went on to later attempts of the seat without a reply to this one."""
        return self.history.gone_without(key)

    def _entry(self, id: AttemptId, state: Any, body: dict[str, Any]) -> Entry:
        name = f"{id.key.step}/{id.key.seat}/{id.key.sample}"
        return Entry(self._run_id, self._epoch, name, id.try_, state, orjson.dumps(body, default=tuple))


def _parts(reply: ChatReply) -> list[Any]:
    """What `reply_of` takes."""
    return [reply.text, reply.usage, reply.finish, reply.tool_calls, reply.floored, reply.logprobs]


def _lost_row(id: AttemptId, order: list[Any], need: Need, units: int, n: int) -> Attempt:
    """The row of an attempt of which only `sent` is known."""
    kind, name, senders = order
    tokens, pico, _, tool_units = unpack(need.at(units), n)[:4]
    charged, held = (0, tokens, pico, tool_units), (tokens, pico, units, need.most)
    return Attempt(*id.key, id.try_, kind, name, "charged_max", *charged, *held, 0.0, 0.0, "", "", tuple(senders))
