"""Owns what a prefix cache would hold for the seats of one run: how much of a prompt an earlier call began with.

A simulated model has no state, so what was asked before is kept beside the run and told with the request. The cache is that
of a server which keeps a prompt in blocks: only whole blocks are shared, the last token of a prompt is always read anew, and
nothing is ever evicted. It belongs to a seat, whose calls follow one another; between seats that act at once, who finds the
cache warm would hang on chance.

Source: W. Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention", SOSP 2023.
"""

from dataclasses import replace

from runtime.models.base import ChatMessage, ChatModel, ChatRequest, prompt_tokens

BLOCK_TOKENS = 16


class Prefixes:
    """The prompts of one run, as far as later ones can begin like them.

    Of the prompts of a seat to a model that open with the same message, the latest is kept: a conversation only grows, and
    prompts that open differently share next to nothing.
    """

    def __init__(self) -> None:
        self._latest: dict[tuple[str, str, tuple[ChatMessage, ...]], ChatRequest] = {}

    def told(self, seat: str, model: ChatModel, request: ChatRequest) -> ChatRequest:
        """The request with its `warm_tokens`, which the next one of this seat may begin with; for a model that caches."""
        if not getattr(model, "caches", False):
            return request
        place = seat, model.name, request.messages[:1]
        before = self._latest.get(place)
        self._latest[place] = request
        return request if before is None else replace(request, warm_tokens=shared_tokens(before, request))


def shared_tokens(before: ChatRequest, now: ChatRequest) -> int:
    """Prompt tokens of `now` that lie in blocks `before` begins with as well; 0 where the tools differ, which come first."""
    if before.tools != now.tools:
        return 0
    whole = 0
    for old, new in zip(before.messages, now.messages, strict=False):
        if old != new:
            break
        whole += 1
    alike = now.messages[:whole]
    if whole < min(len(before.messages), len(now.messages)):
        old, new = before.messages[whole], now.messages[whole]
        if old.role == new.role:
            alike += (ChatMessage(new.role, new.content[: _common(old.content, new.content)]),)
    # Rounded down to whole blocks, so that the last, half-filled token of the text that both share does not matter.
    shared = min(prompt_tokens(replace(now, messages=alike)), prompt_tokens(now) - 1)
    return shared // BLOCK_TOKENS * BLOCK_TOKENS


def _common(old: str, new: str) -> int:
    """Length of the beginning that two texts share, by halving: slices are compared in C."""
    low, high = 0, min(len(old), len(new))
    while low < high:
        middle = (low + high + 1) // 2
        if old[low:middle] == new[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
