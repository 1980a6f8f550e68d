"""Owns the form of recordings on disk: one JSON line per request and per run, written as runs end, read strictly."""

import builtins
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from runtime.bank.book import Need
from runtime.bank.vector import Vector, pack, unpack
from runtime.budget import MOST, Budget
from runtime.errors import ConfigError, OrchestrationError, error_of, told
from runtime.journal import Attempt, Key, in_order
from runtime.models.asked import Asked, digest_of
from runtime.models.base import ChatReply, reply_of
from runtime.recording import FORMAT, Foreign, ModelFacts, RecordedAsk, RecordedRun, RecordedTry, SeatFacts
from runtime.result import RunResult
from runtime.shares import PLENTY
from runtime.usage import Price, Tier, TieredPrice


class RecordingFile:
    """A recording that is being made.

    Args:
        path: a file that does not exist yet: what was paid for is never overwritten.
        command: the ingredients as the command line was given them, for `ostrom replay`.
    """

    def __init__(self, path: Path | str, command: Mapping[str, str] | None = None) -> None:
        self._path = Path(path)
        self._command = command
        self._requests: set[str] = set()
        self._runs: set[str] = set()

    def __enter__(self) -> Self:
        try:
            self._file = self._path.open("xb")
        except FileExistsError:
            raise ConfigError(f"{self._path} exists already; name a new file to record into") from None
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot be written: {error.strerror}; name another file") from None
        self._write({"recording": FORMAT, "command": self._command})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, body: bytes) -> None:
        """Add a run as `to_body` made it; one that is in the file already is left as it is."""
        kept = orjson.loads(body)
        if kept["run"]["run_id"] in self._runs:
            return
        for digest, asked in kept["asked"].items():
            if digest not in self._requests:
                self._requests.add(digest)
                self._write({"asked": digest, "request": asked})
        self._runs.add(kept["run"]["run_id"])
        self._write({"run": kept["run"]})

    def _write(self, line: Mapping[str, Any]) -> None:
        try:
            self._file.write(orjson.dumps(line) + b"\n")
            self._file.flush()
        except OSError as error:
            raise ConfigError(
                f"{self._path}: cannot be written: {error.strerror}; what stands in it is whole"
            ) from None


def read(path: Path) -> tuple[list[RecordedRun], Mapping[str, str] | None]:
    """The runs of a file, and the command that made it.

    Raises:
        ConfigError: see `Recording.load`.
    """
    lines = _lines(path)
    _, head = next(lines, (1, {}))
    if head.get("recording") != FORMAT:
        raise ConfigError(f"{path}:1: not a recording of the form {FORMAT}; make one with Runtime(record=...)")
    asked: dict[str, Asked] = {}
    runs: list[RecordedRun] = []
    for number, line in lines:
        try:
            if "run" in line:
                runs.append(_run(line["run"], asked))
            elif digest_of(line["request"]) == line["asked"]:
                asked[line["asked"]] = line["request"]
            else:
                raise ValueError("the request is not the one that was recorded")
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OrchestrationError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ConfigError(f"{path}:{number}: no line of a recording: {what}; record again") from None
    return runs, head.get("command")


def to_body(run: RecordedRun) -> bytes:
    """A recorded run with its requests, as one JSON document."""
    n = len(run.budget.dimensions)
    budget = {f.name: value for f in fields(Budget) if (value := getattr(run.budget, f.name)) is not None}
    kept = {
        "run_id": run.run_id,
        "address": run.address,
        "task": run.task,
        "topology": run.topology,
        "budget": budget | ({} if run.budget.usd is None else {"usd": str(run.budget.usd)}),
        "seed": run.seed,
        "models": {name: {**m._asdict(), "price": _price_out(m.price)} for name, m in run.models.items()},
        "seats": {seat: _seat_out(facts, n) for seat, facts in run.seats.items()},
        "raised": run.raised,
        "earlier": [_try_out(one, n) for one in run.earlier],
        "asks": [_ask_out(ask, n) for ask in run.asks],
        # Its attempts are the rows of the tries.
        "result": orjson.loads(replace(run.result, attempts=()).to_json()),
    }
    return orjson.dumps({"run": kept, "asked": run.asked}, default=tuple)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                try:
                    line = orjson.loads(raw)
                except orjson.JSONDecodeError as error:
                    cut = "it is cut off; delete it to use what stands before it"
                    what = cut if not raw.endswith(b"\n") else f"not valid JSON ({error}); record again"
                    raise ConfigError(f"{path}:{number}: {what}") from None
                if not isinstance(line, dict):
                    raise ConfigError(f"{path}:{number}: no line of a recording; record again")
                yield number, line
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def _run(kept: dict[str, Any], asked: Mapping[str, Asked]) -> RecordedRun:
    asks = tuple(_ask(ask) for ask in kept["asks"])
    earlier = tuple(_try(one) for one in kept["earlier"])
    rows = sorted((one.row for one in (*earlier, *(one for ask in asks for one in ask.tries))), key=in_order)
    result = RunResult.from_json(orjson.dumps(kept["result"] | {"attempts": rows}, default=list))
    models = {
        name: ModelFacts(_price(m["price"]), m["window_tokens"], m["shrinkable"]) for name, m in kept["models"].items()
    }
    same = {name: kept[name] for name in ("run_id", "address", "task", "topology", "seed")}
    return RecordedRun(
        **same,
        budget=Budget(**kept["budget"]),
        models=models,
        # Recordings of before have no such entry.
        seats={seat: _seat(kept["seats"][seat]) for seat in kept["topology"]["seats"]} if "seats" in kept else {},
        raised=tuple(kept["raised"]),
        earlier=earlier,
        asks=asks,
        asked={ask.asked: asked[ask.asked] for ask in asks},
        result=result,
    )


def _seat_out(facts: SeatFacts, n: int) -> dict[str, list[int | None]]:
    # JSON here has 64 bits. No limit is above MOST, so None stands for what nothing limits.
    return {
        name: [None if amount > MOST else amount for amount in unpack(vector, n)]
        for name, vector in facts._asdict().items()
    }


def _seat(kept: dict[str, list[int | None]]) -> SeatFacts:
    return SeatFacts(*(pack(tuple(PLENTY if a is None else a for a in kept[name])) for name in SeatFacts._fields))


def _ask_out(ask: RecordedAsk, n: int) -> dict[str, Any]:
    kept = {**ask.key._asdict(), "kind": ask.kind, "name": ask.name, "asked": ask.asked, "at_s": ask.at_s}
    kept["tries"] = [_try_out(one, n) for one in ask.tries]
    if isinstance(ask.end, ChatReply):
        # The reply of the last try stands there already.
        return kept | ({"end": "reply"} if ask.tries else {"end": "reply", "reply": _reply_out(ask.end)})
    if ask.end is None:
        return kept | {"end": "cut off"}
    if isinstance(ask.end, Foreign):
        return kept | {"end": "foreign", "error": ask.end}
    name, args = told(ask.end)
    return kept | {"end": name, "error": args}


def _ask(kept: dict[str, Any]) -> RecordedAsk:
    tries = tuple(_try(one) for one in kept["tries"])
    end: ChatReply | OrchestrationError | Foreign | None
    if kept["end"] == "reply":
        end = reply_of(**kept["reply"]) if "reply" in kept else tries[-1].reply
        if end is None:
            raise ValueError("a try that answered has no reply")
    elif kept["end"] == "cut off":
        end = None
    elif kept["end"] == "foreign":
        end = Foreign(*kept["error"])
        if not issubclass(getattr(builtins, end.base, object), Exception):
            raise ValueError(f"{end.base!r} is no error of Python")
    else:
        end = error_of(kept["end"], kept.get("error", ()))
    key = Key(kept["step"], kept["seat"], kept["sample"])
    return RecordedAsk(key, kept["kind"], kept["name"], kept["asked"], tries, end, kept["at_s"])


def _try_out(one: RecordedTry, n: int) -> dict[str, Any]:
    need = {"fixed": unpack(one.need.fixed, n), "per_unit": unpack(one.need.per_unit, n)}
    row = one.row._asdict()
    if one.reply is not None and one.reply.text == one.row.reply:
        del row["reply"]  # it stands in the reply
    return {
        "row": row,
        "need": need | {"most": one.need.most, "least": one.need.least},
        "floor": unpack(one.floor, n),
        "scope": one.scope,
        "charged": None if one.charged is None else unpack(one.charged, n),
        "reply": None if one.reply is None else _reply_out(one.reply),
    }


def _try(kept: dict[str, Any]) -> RecordedTry:
    def vector(amounts: list[int]) -> Vector:
        return pack(tuple(amounts))

    need = kept["need"]
    row = Attempt(**{"reply": (kept["reply"] or {}).get("text")} | kept["row"])
    return RecordedTry(
        row._replace(senders=tuple(row.senders)),
        Need(vector(need["fixed"]), vector(need["per_unit"]), need["most"], need["least"]),
        vector(kept["floor"]),
        kept["scope"],
        None if kept["charged"] is None else vector(kept["charged"]),
        None if kept["reply"] is None else reply_of(**kept["reply"]),
    )


def _reply_out(reply: ChatReply) -> dict[str, Any]:
    return {f.name: getattr(reply, f.name) for f in fields(reply)}


def _price_out(price: Price | None) -> dict[str, Any] | None:
    return None if price is None else {f.name: getattr(price, f.name) for f in fields(price)}


def _price(kept: dict[str, Any] | None) -> Price | None:
    if kept is None:
        return None
    tiers = kept.pop("tiers", None)
    return Price(**kept) if tiers is None else TieredPrice(**kept, tiers=tuple(Tier(*tier) for tier in tiers))
