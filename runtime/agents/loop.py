"""Owns how an agent answers: route, prompt, call, tools, typed reply. It acts in its asker's task, not one of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from runtime.agents.agent import Agent
from runtime.agents.blocks import block, mail_text, shortened, too_long
from runtime.agents.context import Content, content_of, prompt, summary_prompt
from runtime.agents.roles import reply_of, words_for
from runtime.agents.tools import arguments_of
from runtime.attempts import Attempts
from runtime.bank.vector import Vector, fits, guards, pack, unpack
from runtime.boundary import contained
from runtime.budget import PICO_USD, TOKENS, Caps
from runtime.errors import BadModelReply, BudgetExceeded, ModelError
from runtime.ids import seed_of
from runtime.journal import Key
from runtime.messages import Bid, Bundle, Delivered, Plan, Refusal, Reply, Report, Verdict, Vote, parse_reply
from runtime.messages import Part as Subtask
from runtime.models.base import ChatMessage, ChatModel, ChatReply, ChatRequest, ToolCall, prompt_tokens
from runtime.needs import measure
from runtime.nesting import Level
from runtime.order import Order
from runtime.protocols import OUTSIDE, Award, Mailable, PacingView, Router, Topology, Work
from runtime.spread import Spread
from runtime.trampoline import handover
from runtime.usage import Price, Usage

LEAST_TOKENS = {"plan": 256, "report": 128, "verdict": 128, "bid": 96, "vote": 32}
"""Reply tokens below which a typed reply of the kind would be cut off, so that shrinking stops there."""
BID_TOKENS = 256
"""What a bid or a vote may think and write: a short plan, nothing carried out."""
MAX_TOOL_TURNS = 16


@dataclass(slots=True)
class Desk:
    """What all agents of one run share."""

    attempts: Attempts
    models: Mapping[str, ChatModel]
    caps: Caps
    dimensions: tuple[str, ...]
    seed_parts: tuple[object, ...]
    places: "Mapping[str, Place]"
    spread: Spread | None = None
    """Which hosts work for which seats; None: this one for all."""

    def pass_over(self, tool: Key) -> None:
        """Have seats that a tool asked in an earlier life go on after that, although it is not called again."""
        if self.attempts.journal is not None:
            for seat, step in self.attempts.journal.asked_inside(tool).items():
                self.places[seat].steps = max(self.places[seat].steps, step)


@dataclass(slots=True)
class Place:
    """A seat while a run goes on."""

    seat: str
    agent: Agent
    share: Vector
    """One ask's even share of the budget it draws on."""
    level: Level
    """The topology whose seat it is."""
    floor: Vector = 0
    """What is kept back for one finishing call of this seat; 0 when it has none."""
    steps: int = 0
    spent: Vector = 0
    """What the current ask has cost before its own call: routing, and summaries of what it reads."""


@dataclass(slots=True)
class Turn:
    """One seat answering one message. It is also the `Caller` that a router sees."""

    place: Place
    desk: Desk
    content: Content
    floor: Vector

    async def answer(self) -> Mailable:
        """Answer with the typed reply of the seat's role.

        Raises:
            BudgetExceeded: a call does not fit any more.
            ModelError: the model failed for good, or its reply has not the asked shape after one repair.
        """
        agent = self.place.agent
        award = await self._route()
        words = agent.prompt or words_for(agent.role)
        said = prompt(words, self.content, message_tokens=self._team.message_tokens, strategy=award.strategy)
        if self._team.summarise:
            content = await self._fitting(award.model, said)
            said = prompt(words, content, message_tokens=self._team.message_tokens, strategy=award.strategy)
        request = await self._request(award.model, said, reply_of(agent.role))
        request, reply = await self._converse(award.model, request)
        try:
            typed = typed_reply(request.reply, reply.text, self.place.seat)
        except ValueError as error:
            mend = f"Your reply could not be read: {error}. Reply again with the JSON only."
            more = (ChatMessage("assistant", reply.text), ChatMessage("user", mend))
            request = replace(request, messages=request.messages + more)
            reply = await self._say(award.model, request, "work", self.content.senders)
            try:
                typed = typed_reply(request.reply, reply.text, self.place.seat)
            except ValueError as again:
                raise BadModelReply(award.model, str(again)) from None
        assert isinstance(typed, Mailable)
        return typed

    @property
    def seed(self) -> int:
        """Seed of this routing decision."""
        return seed_of(*self.desk.seed_parts, self.place.seat, self.place.steps, "route")

    def price_per_million_usd(self, model: str) -> float:
        """Blended list price, input and output in equal parts; 0 where the price is unknown."""
        price = self.desk.models[model].price or Price()
        return (price.input_pico + price.output_pico) / 2 / 1e6

    async def ask_role(
        self, role: str, models: Sequence[str], work: Work, bids: Sequence[Bid] = ()
    ) -> list[Reply | Refusal]:
        """Ask models in a role about the work, one after another, so that their order never depends on timing."""
        kind = reply_of(role)
        content = content_of(Bundle((), work.part), work.task)
        said = prompt(words_for(role), content, message_tokens=self._team.message_tokens, bids=bids)
        replies: list[Reply | Refusal] = []
        for name in models:
            model = self.desk.models[name]
            request = ChatRequest(said, 1, reply=kind)
            bound = model.bound(request)
            most = max(LEAST_TOKENS[kind], min(BID_TOKENS, model.window_tokens - bound.input_tokens))
            request = replace(request, max_tokens=most if model.shrinkable else bound.output_tokens)
            try:
                reply = await self._say(name, request, kind)
                replies.append(typed_reply(kind, reply.text, name))
            except BudgetExceeded as error:
                replies.append(Refusal(self.place.seat, *error.args))
            except (ValueError, ModelError):
                # An unreadable bid or vote, or one of a model that is down, counts as none; what it cost is booked already.
                replies.append(Bid((), name) if kind == "bid" else Vote((), name))
        return replies

    async def _route(self) -> Award:
        model = self.place.agent.model
        self.place.spent = 0
        if isinstance(model, str):
            return Award(model)
        assert isinstance(model, Router)
        work = Work(self.content.task, self.content.part, self.place.agent.role)
        await handover()
        return await contained(f"router {model.name}", model.route, work, self)

    async def _fitting(self, model: str, clipped: tuple[ChatMessage, ...]) -> Content:
        """What the seat was sent, with summaries in the place of what is too long for its channel.

        Args:
            clipped: the conversation without summaries.
        """
        content, tokens = self.content, self._team.message_tokens
        after = ChatRequest(clipped, LEAST_TOKENS[reply_of(self.place.agent.role)])
        part = content.part
        if part is not None and too_long(part, tokens):
            part = replace(part, text=mail_text(await self._summary(model, part, after)))
        mails = [await self._summary(model, mail, after) if too_long(mail, tokens) else mail for mail in content.mails]
        return content._replace(part=part, mails=tuple(mails))

    async def _summary(self, name: str, mail: Delivered, after: ChatRequest) -> Delivered:
        """The mail as the seat's own model tells it shorter; itself, to be clipped, where that cannot be had.

        It draws on no floor, so that what is kept for a finishing call is never spent on reading for it; and on no more than
        the seat's even share, so that it costs no other seat its call.

        Args:
            after: the shortest useful call that comes after it.
        """
        tokens, model = self._team.message_tokens, self.desk.models[name]
        request = ChatRequest(summary_prompt(self.content.task, mail, tokens), tokens)
        if not self._shares(model, [request] if self.floor else [request, after]):
            return mail
        if not model.shrinkable:
            request = replace(request, max_tokens=model.bound(request).output_tokens)
        try:
            reply = await self._say(name, request, "summary", (mail.sender or OUTSIDE,))
        except (BudgetExceeded, ModelError):
            return mail
        return shortened(mail, reply.text) if reply.text.strip() else mail

    def _shares(self, model: ChatModel, requests: Sequence[ChatRequest]) -> bool:
        """Whether requests lie within the seat's even share of one ask, beside what this ask has cost.

        Counted by the rule of four bytes a token, whatever the model's own bound is: a replay knows no bound of what was not
        asked, and has to come to the same end.
        """
        price, need = model.price or Price(), self.place.spent
        for request in requests:
            usage = Usage(prompt_tokens(request), request.max_tokens)
            need += pack((usage.tokens, price.cost(usage), 1, 0))
        return fits(need, self.place.share, guards(4))

    async def _converse(self, model: str, request: ChatRequest) -> tuple[ChatRequest, ChatReply]:
        """Call the model until it stops calling tools; the request returned is the last one made."""
        for _ in range(MAX_TOOL_TURNS):
            reply = await self._say(model, request, "work", self.content.senders)
            if not reply.tool_calls:
                return request, reply
            seen = [await self._observe(call) for call in reply.tool_calls]
            asked = ChatMessage("assistant", reply.text, reply.tool_calls)
            request = replace(request, messages=(*request.messages, asked, *seen))
        raise BadModelReply(model, f"still calling tools after {MAX_TOOL_TURNS} turns")

    async def _observe(self, call: ToolCall) -> ChatMessage:
        tool = next((t for t in self.place.agent.tools if t.name == call.name), None)
        arguments = arguments_of(call)
        if tool is None:
            seen = f"error: there is no tool {call.name}"
        elif arguments is None:
            seen = "error: the arguments are no JSON object"
        else:
            order = Order(self._next_key(), "tool", tool.name, 0, self.floor, (), self.place.level.scope)
            if self.desk.spread is not None:
                tool = self.desk.spread.tool(self.place.seat, tool)
            try:
                seen = await self.desk.attempts.tool(tool, arguments, order, self.desk.dimensions)
            finally:
                self.desk.pass_over(order.key)
        return ChatMessage("tool", block("tool", seen, name=call.name), tool_call_id=call.id)

    async def _say(self, name: str, request: ChatRequest, kind: str, senders: tuple[str, ...] = ()) -> ChatReply:
        model = self.desk.models[name]
        key = self._next_key()
        work = kind == "work"
        # A summary is not shrunk: cut off, it would be a clipped mail that cost something.
        least = LEAST_TOKENS.get(request.reply, request.max_tokens)
        order = Order(key, kind, name, least, self.floor if work else 0, senders, self.place.level.scope)
        seeded = replace(request, seed=seed_of(*self.desk.seed_parts, *key))
        if self.desk.spread is not None:
            model = self.desk.spread.model(self.place.seat, name, model)
        reply = await self.desk.attempts.chat(model, seeded, order)
        if reply.usage is not None and not work:
            self.place.spent += pack((reply.usage.tokens, (model.price or Price()).cost(reply.usage), 1, 0))
        return reply

    async def _request(self, name: str, said: tuple[ChatMessage, ...], reply: str) -> ChatRequest:
        """A work request whose reply limit is the agent's own effort, else what pacing makes of the share."""
        agent, model = self.place.agent, self.desk.models[name]
        tools = tuple(tool.spec() for tool in agent.tools)
        whole = ChatRequest(said, model.window_tokens, 0, reply, tools)
        await measure(model, whole)
        bound = model.bound(whole)
        if not model.shrinkable:
            return ChatRequest(said, bound.output_tokens, 0, reply, tools)
        effort = agent.effort_tokens
        if effort is None:
            share, spent = unpack(self.place.share + self.floor, 2), unpack(self.place.spent, 2)
            price = model.price or Price()
            view = PacingView(
                None if self.desk.caps[TOKENS] is None else share[TOKENS],
                None if self.desk.caps[PICO_USD] is None else share[PICO_USD],
                spent[TOKENS],
                spent[PICO_USD],
                bound.input_tokens,
                price.input_pico,
                price.output_pico,
                model.window_tokens,
            )
            effort = self._team.pacing.effort(view)
        most = max(LEAST_TOKENS[reply], min(effort, model.window_tokens - bound.input_tokens))
        return ChatRequest(said, most, 0, reply, tools)

    @property
    def _team(self) -> Topology:
        return self.place.level.topology

    def _next_key(self) -> Key:
        self.place.steps += 1
        return Key(self.place.steps - 1, self.place.seat, 0)


def typed_reply(kind: str, text: str, sender: str) -> Reply:
    """Read a reply: JSON of the asked shape, or, where there is no JSON at all, plain words in the place of the answer.

    Raises:
        ValueError: JSON of another shape, an empty reply, or plain words where scores were asked for.
    """
    words = text.strip()
    if words.startswith("```"):
        words = words.strip("`").removeprefix("json").strip()
    if words.startswith(("{", "[")) or not words or kind == "vote":
        return parse_reply(kind, words, sender)
    if kind == "plan":
        return Plan(tuple(Subtask(line.strip(), (), sender) for line in words.splitlines() if line.strip()), sender)
    if kind == "verdict":
        return Verdict("accept", words, sender=sender)
    if kind == "bid":
        return Bid(tuple(line.strip() for line in words.splitlines() if line.strip()), sender)
    return Report(words, sender=sender)
