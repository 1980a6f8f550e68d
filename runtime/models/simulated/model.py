"""Owns SimulatedModel, the ChatModel over noisy solvers, and the catalogue's two: `small` and `large`."""

from collections.abc import Sequence

from runtime.agents.blocks import block, read_blocks
from runtime.errors import BadModelReply, ConfigError, ModelRefused
from runtime.models.base import ChatReply, ChatRequest, FinishReason, ToolCall, estimate_tokens, prompt_tokens
from runtime.models.simulated.noise import Noise
from runtime.models.simulated.port import Solver, ToolSolver
from runtime.models.simulated.prompt import read_prompt
from runtime.models.simulated.turn import Turn, called_text
from runtime.trampoline import nap_s
from runtime.usage import Price, Usage

_TICKS_PER_S = 2**20
"""Virtual time is counted in these, so that sums and ties of latencies are exact."""


class SimulatedModel:
    """Works out the right reply with a family's solver, and errs at calibrated rates.

    It knows the request and nothing else, so the same request gets the same reply in any process on any machine. Prompt tokens
    that are warm in the seat's cache are told as cached, and cost `Price.cached_pico` where that is declared; reading them
    takes as long as ever. Beside its waiting, one call costs 30 to 65 µs of CPU, by role and length of the prompt, once the
    text of its task was read before; an executor's spends 15 of 35 outside the family's solver.

    Args:
        name: the catalogue name. It takes part in the draws: two models under one name err on the same calls.
        solvers: the families it can work on; the first that reads the `<task>` block is taken.
        noise: how it errs.
        tokens_per_s: speed of generating, thinking included.
        prefill_tokens_per_s: speed of reading the prompt.

    Raises:
        ConfigError: no solver, or a speed or window below 1.
    """

    virtual = True
    shrinkable = True
    naps = True
    caches = True
    """Its usage tells the tokens that a prefix cache would hold; see `runtime.models.prefixes`."""

    def __init__(
        self,
        name: str,
        solvers: Sequence[Solver],
        noise: Noise,
        *,
        price: Price | None,
        window_tokens: int,
        tokens_per_s: int,
        prefill_tokens_per_s: int,
    ) -> None:
        if not solvers:
            raise ConfigError(f"{name}: a simulated model needs at least one solver")
        if min(window_tokens, tokens_per_s, prefill_tokens_per_s) < 1:
            raise ConfigError(f"{name}: window_tokens, tokens_per_s and prefill_tokens_per_s must be 1 or more")
        self.name = name
        self.solvers = tuple(solvers)
        self.noise = noise
        self.price = price
        self.window_tokens = window_tokens
        self.settings = [name, noise, tokens_per_s, prefill_tokens_per_s, [solver.family for solver in self.solvers]]
        """Everything but the price that decides its replies, for content addresses."""
        self._tokens_per_s = tokens_per_s
        self._prefill_tokens_per_s = prefill_tokens_per_s

    def bound(self, request: ChatRequest) -> Usage:
        """Exact for the prompt; the reply takes at most `request.max_tokens`."""
        return Usage(prompt_tokens(request), request.max_tokens)

    def cannot(self, task: str) -> str | None:
        """Why it can do nothing with a task; None if it can. Asked before anything is spent."""
        if any(solver.reads(read_blocks(block("task", task))[0].body) for solver in self.solvers):
            return None
        known = ", ".join(solver.family for solver in self.solvers)
        return f"{self.name} is simulated and reads generated tasks only ({known}); for tasks of your own name a real model"

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer after the latency of reading the prompt, thinking and writing.

        A reply whose visible part alone is longer than `request.max_tokens` is cut there (finish `length`); of a tool call
        nothing is left then. At most one tool is called in a reply.

        Raises:
            ModelRefused: prompt and limit together pass the window, or the limit is below 1 (status 400).
            BadModelReply: no family reads the task, or no role gives the reply asked for.
        """
        limit = request.max_tokens
        read = prompt_tokens(request)
        if limit < 1 or read + limit > self.window_tokens:
            raise ModelRefused(
                self.name, 400, f"{read} prompt tokens and max_tokens {limit} for a window of {self.window_tokens}"
            )
        turn = self._turn(request)
        said = turn.reply()
        calls: tuple[ToolCall, ...] = ()
        finish: FinishReason = "stop"
        if isinstance(said, str):
            text, written = said, estimate_tokens(said)
        else:
            text, written = "", estimate_tokens(called_text(said))
            calls, finish = (said,), "tool_calls"
        if written > limit:
            # Four bytes a token, the rule estimate_tokens counts by; a character cut in two is dropped.
            text = text.encode()[: 4 * limit].decode(errors="ignore")
            calls, finish = (), "length"
        usage = Usage(read, min(turn.thought_tokens + written, limit), min(request.warm_tokens, read))
        await nap_s(self._latency_s(usage))
        return ChatReply(text, usage, finish, calls)

    def _turn(self, request: ChatRequest) -> Turn:
        prompt = read_prompt(request)
        for solver in self.solvers:
            if prompt.task is not None and solver.reads(prompt.task):
                told = solver.knowing(prompt.seen) if prompt.seen and isinstance(solver, ToolSolver) else solver
                return Turn(self.name, self.noise, told, prompt.task, prompt, request)
        fault = "the prompt has no <task> block" if prompt.task is None else "no family reads this task"
        known = ", ".join(solver.family for solver in self.solvers)
        raise BadModelReply(self.name, f"{fault}; a simulated model works on the families {known} only")

    def _latency_s(self, usage: Usage) -> float:
        writing = -(-usage.output_tokens * _TICKS_PER_S // self._tokens_per_s)
        reading = -(-usage.input_tokens * _TICKS_PER_S // self._prefill_tokens_per_s)
        return (writing + reading) / _TICKS_PER_S


def small(solvers: Sequence[Solver], *, compliance_ratio: float = 0.5) -> SimulatedModel:
    """Build `sim/small`: a third of whole tasks right with 800 tokens a call, at an eighth of the price of `large`."""
    return SimulatedModel(
        "sim/small",
        solvers,
        Noise(skill=1.2, hit_ratio=0.85, catch_ratio=0.6, score_spread=1.0, compliance_ratio=compliance_ratio),
        price=Price.per_million("0.10", "0.40"),
        window_tokens=32_768,
        tokens_per_s=160,
        prefill_tokens_per_s=8_000,
    )


def large(solvers: Sequence[Solver], *, compliance_ratio: float = 0.5) -> SimulatedModel:
    """Build `sim/large`: three in five whole tasks right with 800 tokens a call."""
    return SimulatedModel(
        "sim/large",
        solvers,
        Noise(skill=1.72, hit_ratio=0.92, catch_ratio=0.75, score_spread=0.6, compliance_ratio=compliance_ratio),
        price=Price.per_million("0.80", "3.20"),
        window_tokens=131_072,
        tokens_per_s=80,
        prefill_tokens_per_s=4_000,
    )
