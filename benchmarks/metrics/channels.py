"""Owns the fidelity γ of channels: what of a sender's answer arrives in the reader's prompt, and in the reader's answer.

Reports and verdicts only; a plan travels in parts, and a part is neither right nor wrong.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from benchmarks.metrics.jackknife import Estimate, jackknife, ratio, share
from benchmarks.metrics.trace import Trace
from runtime.agents.blocks import clip, mail_block, read_blocks, shortened
from runtime.messages import Plan, Report, Verdict
from runtime.task import last_number
from topologies.drawing import role

CHANNEL_COLUMNS: dict[str, type[pl.DataType]] = {
    **dict.fromkeys(("address", "sender", "receiver"), pl.String),
    **dict.fromkeys(("mails", "whole", "summarised", "sent", "arrived", "relayed", "kept"), pl.Int64),
}
"""One row per run and channel between roles; see `channels_of`."""
_UNCLIPPED = 10**9


class Fidelity(NamedTuple):
    """What is known about one kind of channel."""

    mails: int
    whole: Estimate | None
    """Share of mails that were delivered as they were written, neither clipped nor summarised."""
    gamma: Estimate | None
    """γ = mean of sent · arrived, both ±1 for right and wrong, arrived 0 where clipping or a summary left no answer."""
    transfer: Estimate | None
    """Mean of sent · the reader's own answer, both ±1, over readers that answered the same thing: 1 − 2 · flips."""


def channels_of(trace: Trace, lengths: Mapping[str, int]) -> list[dict[str, Any]]:
    """Count, for each pair of roles, what became of the mails of one run.

    Columns: mails; whole (delivered as written); summarised (told shorter by the reader's model); sent (mails known to be
    right or wrong); arrived (Σ sent · arrived); relayed (of those, read by somebody who answered about the same thing and is
    known to be right or wrong); kept (Σ sent · reader). What a seat mails to itself is its memory and no channel.

    Args:
        lengths: by seat, the tokens of a message that it reads, as its topology has them.
    """
    found: dict[tuple[str, str], dict[str, int]] = {}
    for reply in trace.answers:
        for place, told in zip(reply.read, reply.told, strict=True):
            mail = trace.replies[place]
            if isinstance(mail.said, Plan) or mail.seat == reply.seat:
                continue
            counts = found.setdefault((role(mail.seat), role(reply.seat)), dict.fromkeys(list(CHANNEL_COLUMNS)[3:], 0))
            counts["mails"] += 1
            counts["summarised"] += told is not None
            arrived = mail_block(mail.said if told is None else shortened(mail.said, told), lengths[reply.seat])
            counts["whole"] += arrived == mail_block(mail.said, _UNCLIPPED)
            if mail.right is None:
                continue
            sign = 1 if mail.right else -1
            counts["sent"] += 1
            counts["arrived"] += _sent_arrived(mail.said, arrived, sign)
            if reply.right is not None and reply.units == mail.units and reply.partial == mail.partial:
                counts["relayed"] += 1
                counts["kept"] += sign * (1 if reply.right else -1)
    return [{"sender": a, "receiver": b, **counts} for (a, b), counts in sorted(found.items())]


def channels_frame(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """The table of channels from rows of `channels_of` that got their `address`."""
    return pl.DataFrame(rows, schema=CHANNEL_COLUMNS)


def fidelity(rows: pl.DataFrame, level: float = 0.95) -> Fidelity:
    """Estimate the fidelity of one kind of channel from its rows, which got a column `cluster` (the task).

    Liu et al. define γ as the correlation of a binary symmetric channel and calibrate it by a relay test; `gamma` is that of
    the wire alone, `transfer` that of the wire with its reader, who may mend or spoil what he reads.
    """
    cluster = rows["cluster"].to_list()
    whole = share(rows["whole"], rows["mails"], cluster, level)
    kept = share((rows["kept"] + rows["relayed"]) // 2, rows["relayed"], cluster, level)
    sums = rows.group_by("cluster").agg(pl.col("arrived", "sent").sum()).select("arrived", "sent").to_numpy()
    full = int(rows["arrived"].sum()) == int(rows["sent"].sum())
    gamma = (
        _signed(share(rows["arrived"], rows["sent"], cluster, level)) if full else jackknife(sums, ratio, level=level)
    )
    return Fidelity(int(rows["mails"].sum()), whole, gamma, _signed(kept))


def _signed(share: Estimate | None) -> Estimate | None:
    """A share of ones as the mean of ones and minus ones."""
    if share is None or share.low is None or share.high is None:
        return share
    return Estimate(2 * share.value - 1, 2 * share.low - 1, 2 * share.high - 1, share.clusters)


def _sent_arrived(said: Report | Verdict, arrived: str, sign: int) -> int:
    """Sent · arrived: 1 where the answer stands in the delivered mail as it was sent, 0 where there is none left."""
    body, answer = read_blocks(arrived)[0].body.removeprefix("Answer: "), clip(said.answer, _UNCLIPPED)
    if body.startswith(answer) and not body[len(answer) :][:1].isalnum():
        return 1
    seen, meant = last_number(body.partition("\n")[0]), last_number(said.answer)
    if seen is None or meant is None:
        return 0
    # A number cut short is another number: wrong instead of right, or wrong still.
    return 1 if seen == meant else -sign
