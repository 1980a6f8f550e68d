"""Owns how a simulated model plays each role: it asks the solver for the right move, and errs by seeded draws.

Whether work succeeds is one draw against the chance of `noise`; what goes wrong is a second. Verifiers judge every report at
stated rates. A report they take for wrong is done again by themselves, and so is a gap they notice; a gap they do not notice
goes into the answer. Whoever does work calls the tools that it needs first, one in each turn of the conversation. Bids and
votes are written without thinking, and summaries with a little.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson

from runtime.agents.blocks import clip
from runtime.errors import BadModelReply
from runtime.ids import draw
from runtime.messages import Bid, Part, Report, Vote, reply_json
from runtime.models.base import ChatRequest, ToolCall, estimate_tokens
from runtime.models.simulated.noise import REFERENCE_TOKENS, Item, Noise, item, normal
from runtime.models.simulated.port import Call, Move, Solver, ToolSolver
from runtime.models.simulated.prompt import Prompt, covers_note

USUAL_PARTS = 4
"""Into how many parts a planner cuts when nobody says."""
_TOP_SCORE = 5


@dataclass(slots=True)
class Turn:
    """One call: what was asked, who answers, and how long it has thought."""

    name: str
    noise: Noise
    solver: Solver
    task: str
    prompt: Prompt
    request: ChatRequest
    thought_tokens: int = 0
    _item: Item = field(init=False)

    def __post_init__(self) -> None:
        self._item = item(self.task, self.noise.lineage)

    def reply(self) -> str | ToolCall:
        """Text of the typed reply asked for, or a plain answer where none was; or the tool call that has to come before.

        Raises:
            BadModelReply: no role gives a reply of this name.
        """
        match self.request.reply:
            case "plan":
                return self.plan()
            case "report":
                return self.call(self.prompt.mails) or self.report()[1]
            case "verdict":
                return self.verdict()
            case "bid":
                return reply_json(self.bid())
            case "vote":
                return reply_json(self.vote())
            case "" if self.prompt.shorten is not None:
                return self.summary(*self.prompt.shorten)
            case "":
                if (call := self.call(self.prompt.mails)) is not None:
                    return call
                move, _ = self.report()
                return f"{move.work}\nAnswer: {move.answer}"
            case other:
                raise BadModelReply(self.name, f"no role gives a {other!r}")

    def plan(self) -> str:
        """Cut the work; each part cut is one operation."""
        work = (self.task, self.prompt.part, self.prompt.parts_wanted or USUAL_PARTS)
        parts = self.solver.plan(*work)
        right = _plan(parts)
        if self._succeeds(right, len(parts)):
            return right
        return _plan(self.solver.plan(*work, slip=self._draw("slip")))

    def call(self, mails: Sequence[Report]) -> ToolCall | None:
        """The tool call that work on top of these mails needs next, one operation; None where it needs none."""
        if not self.request.tools or not isinstance(self.solver, ToolSolver):
            return None
        work = (self.task, self.prompt.part, mails, [tool.name for tool in self.request.tools])
        right = self.solver.call(*work)
        if right is None:
            return None
        number = sum(len(message.tool_calls) for message in self.request.messages)
        called = _called(right, number)
        if self._succeeds(called_text(called), 1):
            return called
        wrong = self.solver.call(*work, slip=self._draw("slip"))
        return called if wrong is None else _called(wrong, number)

    def report(self) -> tuple[Move, str]:
        """Do the work on top of the mails, which an executor believes: what was done, and the report of it."""
        work = (self.task, self.prompt.part, self.prompt.mails)
        move = self.solver.act(*work)
        right = _report(move)
        if self._succeeds(right, move.ops):
            return move, right
        wrong = self.solver.act(*work, slip=self._draw("slip"))
        return wrong, _report(wrong)

    def verdict(self) -> str | ToolCall:
        """Judge the mails, do again what is wrong or seen to be missing, and combine."""
        mails = self.prompt.mails
        kept = [mail for number, mail in enumerate(mails) if self._believes(mail, number)]
        make = self.solver.combine
        move = make(self.task, self.prompt.part, kept)
        # Judging starts anew in each turn of a conversation, but who has called a tool has noticed a gap.
        noticed = len(kept) < len(mails) or not kept or bool(self.prompt.seen)
        mends = not move.complete and (noticed or self._draw("gap") < self.noise.catch_ratio)
        if mends:
            if (call := self.call(kept)) is not None:
                return call
            make = self.solver.act
            move = make(self.task, self.prompt.part, kept)
        said = f"{len(kept)} of {len(mails)} reports hold{', the rest done again' if mends else ''}"
        # Reading a report takes thinking too, although how well it is judged is a stated rate.
        right = _verdict(move, said, mends)
        if self._succeeds(right, move.ops, aside=len(mails)):
            return right
        return _verdict(make(self.task, self.prompt.part, kept, slip=self._draw("slip")), said, mends)

    def bid(self) -> Bid:
        """Write a plan whose flaws grow likelier with the model's own chance to fail at the work."""
        ops = self.solver.act(self.task, self.prompt.part, self.prompt.mails).ops
        fails = 1.0 - self._chance(ops, REFERENCE_TOKENS)
        flawed = self.noise.flaw_ratio * fails
        steps = self.solver.steps(self.task, self.prompt.part)
        return Bid(tuple(wrong if self._draw("flaw", i) < flawed else right for i, (right, wrong) in enumerate(steps)))

    def vote(self) -> Vote:
        """Score each bid by the share of the solver's own steps that it names, with a judge's noise."""
        steps = [right for right, _ in self.solver.steps(self.task, self.prompt.part)]
        scores = []
        for number, bid in enumerate(self.prompt.bids):
            share = sum(step in bid for step in steps) / len(steps)
            noisy = _TOP_SCORE * share + self.noise.score_spread * normal(self._draw("score", number))
            scores.append(min(max(round(noisy), 0), _TOP_SCORE))
        return Vote(tuple(scores))

    def summary(self, text: str, tokens: int) -> str:
        """Tell a mail shorter: its answer, which is one operation to copy, and of the rest as much as there is room for.

        An answer copied wrongly becomes a plausible one to the same work. What holds no answer is cut.
        """
        if not self.prompt.mails:
            return clip(text, tokens)
        mail = self.prompt.mails[0]
        rest = text.removeprefix(f"Answer: {mail.answer}").strip()
        room = min(tokens, self.request.max_tokens) - estimate_tokens(f"Answer: {mail.answer}\n")
        self.thought_tokens = max(0, min(REFERENCE_TOKENS, room))
        answer = mail.answer
        if self._draw("right") >= self._chance(1, self.thought_tokens):
            answer = self.solver.act(self.task, mail.covers or None, (), slip=self._draw("slip")).answer
        left = room - self.thought_tokens
        return f"Answer: {answer}\n{clip(rest, left)}" if rest and left > 1 else f"Answer: {answer}"

    def _believes(self, mail: Report, number: int) -> bool:
        right = self.solver.judge(self.task, mail)
        return self._draw("judge", number) < (self.noise.hit_ratio if right else 1.0 - self.noise.catch_ratio)

    def _succeeds(self, right: str, ops: int, aside: int = 0) -> bool:
        visible = estimate_tokens(right)
        shares = ops + aside
        room = self.request.max_tokens - visible
        self.thought_tokens = self.noise.thinking(room, visible, shares, self.prompt.aim_tokens)
        return self._draw("right") < self._chance(ops, self.thought_tokens / max(shares, 1))

    def _chance(self, ops: int, tokens_per_op: float) -> float:
        return self.noise.chance(ops, tokens_per_op, self._item.difficulty)

    def _draw(self, purpose: str, number: int = 0) -> float:
        # The name keeps two models apart that are asked with one seed: what they share is the item's difficulty at most,
        # otherwise their failures would correlate far above the fitted figure.
        return draw(self.request.seed, self._item.seed, self.name, purpose, number)


def called_text(call: ToolCall) -> str:
    """What counts as written of a tool call."""
    return call.name + call.arguments


def _called(call: Call, number: int) -> ToolCall:
    return ToolCall(f"call-{number + 1}", call.tool, orjson.dumps(dict(call.arguments)).decode())


# What `reply_json` makes of a Plan, a Report and a Verdict, in a sixth of the time: most calls of a run are these.


def _plan(parts: Sequence[Part]) -> str:
    return orjson.dumps({"parts": [{"text": part.text, "needs": part.needs} for part in parts]}).decode()


def _report(move: Move) -> str:
    return orjson.dumps({"answer": move.answer, "work": move.work, "covers": move.covers}).decode()


def _verdict(move: Move, said: str, mends: bool) -> str:
    reason = f"{covers_note(move.covers)} {said}"
    return orjson.dumps({"decision": "mend" if mends else "accept", "answer": move.answer, "reason": reason}).decode()
