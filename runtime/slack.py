"""Owns what of a run's budget stayed unspent only because bounds are higher than what calls then use."""

from collections.abc import Mapping, Sequence

from runtime.agents.loop import Place
from runtime.bank.vector import unpack
from runtime.budget import PICO_USD, TOKENS
from runtime.journal import Attempt
from runtime.messages import Refusal
from runtime.models.base import ChatModel
from runtime.usage import Price

_BEFORE = frozenset({"bid", "vote", "summary"})
"""Calls that come before an ask's own and lessen what its effort may cost."""

Two = tuple[int, int]
"""Tokens and pico-dollars: the dimensions in which a reservation is a bound; calls and tool units are exact."""


def bound_slack(
    refusals: Sequence[Refusal],
    attempts: Sequence[Attempt],
    unspent: tuple[int | None, int | None],
    places: Mapping[str, Place],
    models: Mapping[str, ChatModel],
) -> Two:
    """Budget left unspent because of the bound, in tokens and pico-dollars.

    A bound above what a call uses costs a run twice, and the larger of both counts, because the same units can be in both:

    - A refused call counts when it would have fitted had it been held at what calls of this run really used, on average, of
      their holds; then what was left is what the bound kept from being spent.
    - A call counts that wrote as much as it might and was allowed less than it could have been, because room was kept for
      a prompt at its bound. That is so where admission shrank its reply, and where one more token would have taken its
      hold beyond its seat's even share. It counts with what of its hold it did not use. All of them together count with no
      more than is left in the end, because later calls may spend what earlier ones gave back.

    So a reply that ended by itself counts nothing, nor one as long as its agent's own effort, or the most that pacing asks
    for. A fixed pacing that asks for all of the share is taken for the share. Not seen is a reply cut by the model's window,
    or paced to less than the share by a policy of the user's own.

    Args:
        attempts: in the order of steps.
        unspent: what is left of the run's own limits; None where there is none.
    """
    refused, cut = _by_refusals(refusals, attempts), _by_cut_replies(attempts, places, models)
    tokens, pico_usd = (
        max(by_refusal, min(by_cut, max(0, left or 0)))
        for by_refusal, by_cut, left in zip(refused, cut, unspent, strict=True)
    )
    return tokens, pico_usd


def _by_refusals(refusals: Sequence[Refusal], attempts: Sequence[Attempt]) -> Two:
    slack = [0, 0]
    settled = [a for a in attempts if a.state == "settled" and a.kind != "tool"]
    used = [sum(amounts) for amounts in zip((0, 0), *map(_used, settled), strict=True)]
    held = [sum(amounts) for amounts in zip((0, 0), *map(_held, settled), strict=True)]
    for refusal in refusals:  # the largest over all of them, because their order is chance where they came at once
        i = {"tokens": TOKENS, "pico_usd": PICO_USD}.get(refusal.dimension)
        if i is not None and held[i] and refusal.need * used[i] <= refusal.left * held[i]:
            slack[i] = max(slack[i], refusal.left)
    return slack[0], slack[1]


def _by_cut_replies(attempts: Sequence[Attempt], places: Mapping[str, Place], models: Mapping[str, ChatModel]) -> Two:
    lost = [0, 0]
    spent: dict[str, list[int]] = {}
    """By seat, what its ask cost before its own call."""
    before = dict[str, bool]()
    """By seat, whether its last call came before an ask's own."""
    for a in attempts:
        if a.state != "settled" or a.kind == "tool":
            continue
        used = _used(a)
        early = a.kind in _BEFORE
        if early:
            so_far = spent.get(a.seat, [0, 0]) if before.get(a.seat) else [0, 0]
            spent[a.seat] = [x + y for x, y in zip(so_far, used, strict=True)]
        before[a.seat] = early
        model = models[a.model]
        if model.shrinkable and a.output_tokens >= a.max_tokens:
            most = _most_held(a, places[a.seat], spent.get(a.seat, [0, 0]), model.price or Price())
            lost = [x + max(0, m - u) for x, m, u in zip(lost, most, used, strict=True)]
    return lost[0], lost[1]


def _most_held(a: Attempt, place: Place, spent: Sequence[int], price: Price) -> Two:
    """What the call might hold, where that set its reply limit; 0 where something else did."""
    if a.max_tokens < a.wanted_tokens:
        return _held(a)
    if a.kind != "work" or place.agent.effort_tokens is not None:
        return 0, 0
    most = [0, 0]
    shares, floors = unpack(place.share, 2), unpack(place.floor, 2)
    for i, (held, one_more) in enumerate(zip(_held(a), (1, price.output_pico), strict=True)):
        left = shares[i] - spent[i]
        if held > left:
            left += floors[i]  # a finishing call
        if held + one_more > left:
            most[i] = min(held, left)
    return most[0], most[1]


def _used(a: Attempt) -> Two:
    return a.input_tokens + a.output_tokens, a.pico_usd


def _held(a: Attempt) -> Two:
    return a.held_tokens, a.held_pico_usd
