"""Teams whose members are teams: ceilings hold, finishes are kept, and nothing hangs on which of two ties came first."""

from collections.abc import Sequence
from typing import Any

import anyio
import anyio.lowlevel
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import FixedPacing
from runtime.agents.agent import Agent
from runtime.agents.blocks import read_blocks
from runtime.bank.client import BankClient
from runtime.bank.live import Life, LiveJournal
from runtime.bank.store import Entry
from runtime.budget import Budget
from runtime.clock import LoopClock
from runtime.errors import ConfigError
from runtime.host import run_virtual
from runtime.ids import draw
from runtime.messages import Part, Plan, Reply, Report, Verdict, reply_json
from runtime.models.base import ChatModel, ChatReply, ChatRequest, prompt_tokens
from runtime.models.scripted import ScriptedModel
from runtime.nesting import MAX_DEPTH, MAX_SEATS, agents_of, wired
from runtime.preflight import RunSpec, prepare
from runtime.protocols import Outcome, Team
from runtime.result import RunResult
from runtime.run import Run
from runtime.task import Task
from runtime.trampoline import nap_s
from runtime.usage import Price, Usage
from topologies import Cascade, Chain, Graph, Hybrid, Independent, Mesh, Single, Star, Topology, Tree


def says(request: ChatRequest) -> Reply:
    if request.reply == "plan":
        wanted = [block.body for block in read_blocks(request.messages[-1].content) if block.tag == "parts"]
        return Plan(tuple(Part(f"part {i}") for i in range(int(wanted[0]))))
    return Report("42") if request.reply == "report" else Verdict("accept", "42")


def scripted(replies: Any = says, **more: Any) -> ScriptedModel:
    return ScriptedModel(replies, input_tokens=60, output_tokens=40, name="m", **more)


def run(
    topology: Topology, budget: Budget, model: ChatModel | None = None, *, times: int = 1, seed: int = 0
) -> RunResult:
    spec = RunSpec("run", topology, Task("How many?", answer="42"), budget, seed)
    results = run_virtual([spec] * times, {"m": model or scripted()}.__getitem__)
    assert len({result.to_json() for result in results}) == 1
    return results[0]


def paced(topology: Topology, effort: int) -> None:
    """Give the topology, and all in it, one effort, so that their calls compete for the budget."""
    topology.pacing = FixedPacing(effort)
    for member in topology.seats().values():
        if isinstance(member, Topology):
            paced(member, effort)


def spent_in(result: RunResult, path: str) -> tuple[int, int, int]:
    """Tokens, pico-dollars and calls below a seat, from the journal and not from the ledger."""
    rows = [a for a in result.attempts if a.seat.startswith(path + "/")]
    calls = sum(a.state != "released" for a in rows)
    return sum(a.input_tokens + a.output_tokens for a in rows), sum(a.pico_usd for a in rows), calls


# --- drawn nestings


class Noisy:
    """Thinks as long as it may or less, takes 1 to 3 seconds, and says one of three answers, by the draw of its seed."""

    name, virtual, shrinkable, naps, window_tokens = "m", True, True, True, 1_000_000
    price: Price | None = Price(2, 3)

    def bound(self, request: ChatRequest) -> Usage:
        return Usage(prompt_tokens(request), request.max_tokens)

    async def complete(self, request: ChatRequest) -> ChatReply:
        await nap_s(1 + request.seed % 3)
        reply = says(request)
        if isinstance(reply, Report):
            reply = Report(str(request.seed % 3))
        return ChatReply(reply_json(reply), Usage(prompt_tokens(request), int(request.max_tokens * draw(request.seed))))


def _graph(members: list[Agent | Topology]) -> Topology:
    return Graph({"all": members, "last": Agent("verifier")}, [("all", "last")])


ceilings = st.none() | st.builds(
    Budget,
    tokens=st.none() | st.integers(1500, 9000),
    usd=st.none() | st.sampled_from(["0.00000001", "0.00000003"]),
    calls=st.integers(2, 12),
)


def _above(inner: st.SearchStrategy[Agent | Topology]) -> st.SearchStrategy[Agent | Topology]:
    """A team of two or three drawn members, perhaps under a ceiling."""
    members = st.lists(inner, min_size=2, max_size=3)
    teams = st.one_of(
        members.map(Star),
        members.map(lambda m: Star(m, rounds=2)),
        members.map(Chain),
        members.map(Mesh),
        members.map(Hybrid),
        members.map(Independent),
        members.map(lambda m: Independent(m, combine="best")),
        members.map(lambda m: Cascade(m, agree=2)),
        members.map(_graph),
        inner.map(lambda m: Tree(2, 1, executor=m)),
    )
    return st.builds(lambda team, ceiling: team if ceiling is None else team.within(ceiling), teams, ceilings)


nestings = _above(st.recursive(st.just(Agent("executor")), _above, max_leaves=6)).map(lambda t: t.filled("m"))
budgets = st.builds(
    Budget,
    tokens=st.none() | st.integers(4000, 40_000),
    usd=st.none() | st.sampled_from(["0.00000005", "0.0000002"]),
    calls=st.integers(6, 60),
    seconds=st.none() | st.integers(2, 30),
)


@given(nestings, budgets, st.sampled_from([100, 400]), st.integers(0, 10**6))
def test_no_ceiling_is_passed_however_teams_are_nested(
    topology: Topology, budget: Budget, effort: int, seed: int
) -> None:
    paced(topology, effort)
    try:
        result = run(topology, budget, Noisy(), times=3, seed=seed)
    except ConfigError:
        return  # too small for one call and the finish

    total = result.spend.total
    limits = [((total.tokens, total.pico_usd, total.calls), budget)]
    limits += [
        (spent_in(result, path), inner.ceiling) for path, inner in wired(topology).inner.items() if inner.ceiling
    ]
    assert not result.overspent
    for spent, limit in limits:
        assert all(cap is None or got <= cap for got, cap in zip(spent, limit.caps, strict=False)), limit
    if result.status == "completed":
        assert result.metrics["turns"] <= topology.calls()
        assert result.metrics["messages"] <= topology.messages()


# --- ceilings, finishes and refusals


def test_the_finish_of_a_team_under_a_ceiling_is_kept_for_it() -> None:
    """Each star may make four calls of five: an executor goes short, and never the verifier."""
    inner = Star(3).within(Budget(calls=4))

    result = run(Star([inner] * 2, model="m"), Budget(calls=50))

    assert (result.status, result.answer) == ("completed", "42")
    for i in range(2):
        seats = sorted(a.seat.rpartition("/")[2] for a in result.attempts if a.seat.startswith(f"executor[{i}]/"))
        assert seats == ["executor[0]", "executor[1]", "planner", "verifier"]
    assert result.metrics["refusals"] == 2


def test_the_finish_is_kept_for_every_round_in_which_a_team_is_asked() -> None:
    """A mesh asks each star twice, so two calls of each verifier are kept back: 2 · 2 and one call to begin with."""
    mesh = Mesh([Star(2)] * 2, rounds=2, model="m")

    with pytest.raises(ConfigError, match="budget of 4 calls is too small for one call and the finish, which need 5"):
        run(mesh, Budget(calls=4))
    result = run(mesh, Budget(calls=13))

    verifiers = [a for a in result.attempts if a.seat.endswith("verifier")]
    assert len(verifiers) == 3, "what reached a verifier's turn was finished"


@pytest.mark.parametrize(
    "verifier",
    [Single(), Independent(2), Mesh(2, rounds=2), Star(2), Single(Star(1))],
    ids=["single", "vote", "mesh", "star", "single of star"],
)
def test_a_team_that_finishes_another_has_all_its_calls_kept_back(verifier: Topology) -> None:
    """The others get three calls of what there is: a plan and two reports."""
    team = Star(4, verifier=verifier, model="m")
    result = run(team, Budget(calls=3 + verifier.calls()))

    within = [a for a in result.attempts if a.seat.startswith("verifier/")]
    assert (result.status, result.answer, len(within)) == ("completed", "42", verifier.calls())
    with pytest.raises(ConfigError, match=f"which need {1 + verifier.calls()}"):
        run(team, Budget(calls=verifier.calls()))


class Wordy(Noisy):
    """Says as much as a message may hold, and thinks as long as it may."""

    async def complete(self, request: ChatRequest) -> ChatReply:
        await nap_s(1)
        long, reply = "x" * 5000, says(request)
        if isinstance(reply, Plan):
            reply = Plan(tuple(Part(long) for _ in reply.parts))
        else:
            reply = Report(long, covers=long) if isinstance(reply, Report) else Verdict("accept", long)
        return ChatReply(reply_json(reply), Usage(prompt_tokens(request), request.max_tokens))


def test_what_is_kept_for_a_finish_pays_for_the_part_that_the_team_was_given_too() -> None:
    """The inner verifier reads its reports and, beside them, the part its team is about."""
    outer = Star([Star(3)] * 2, model="m")
    paced(outer, 3000)
    for tokens in range(19_500, 21_000, 50):
        result = run(outer, Budget(tokens=tokens), Wordy())
        done = {a.seat for a in result.attempts if a.state == "settled"}
        for i in range(2):
            reported = any(seat.startswith(f"executor[{i}]/executor") for seat in done)
            assert reported == (f"executor[{i}]/verifier" in done), tokens


@pytest.mark.parametrize("around", [lambda t: Chain(1, verifier=t, model="m"), lambda t: Graph({"verifier": t}, [])])
def test_what_is_kept_for_a_finish_pays_for_all_that_its_peers_read(around: Any) -> None:
    """Each executor of the finishing team reads its part, the others' reports and its own."""
    finish = Hybrid(2, model="m")
    finish.message_tokens = 64
    outer = around(finish)
    outer.message_tokens = 64
    for tokens in range(2000, 6000, 50):
        try:
            result = run(outer, Budget(tokens=tokens), Wordy())
        except ConfigError:
            continue  # too little for the finish alone
        within = [a for a in result.attempts if a.seat.startswith("verifier/") and a.state == "settled"]
        assert len(within) in {0, finish.calls()}, f"with {tokens} tokens a finish that was begun was not paid for"
    assert (result.status, len(within)) == ("completed", finish.calls())


def test_a_team_that_is_refused_answers_with_the_best_it_has() -> None:
    inner = Independent(3).within(Budget(calls=2))

    result = run(Star([inner, Agent("executor")], model="m"), Budget(calls=50))

    assert (result.status, result.metrics["refusals"]) == ("completed", 1)
    (verifier,) = [a for a in result.attempts if a.seat == "verifier"]
    assert verifier.senders == ("executor[0]", "executor[1]")


def test_a_team_that_is_refused_with_nothing_in_hand_is_refused_as_a_seat() -> None:
    inner = Chain(2).within(Budget(calls=2))  # the planner's and the verifier's

    result = run(Star([inner, Agent("executor")], model="m"), Budget(calls=50))

    assert (result.status, result.answer) == ("completed", "42")
    (verifier,) = [a for a in result.attempts if a.seat == "verifier"]
    assert verifier.senders == ("executor[1]",)
    alone = run(Independent([inner], model="m"), Budget(calls=50))
    assert (alone.status, alone.reason) == ("exhausted", "agent[0]: run/agent[0]: 1 calls needed, 0 left")


def test_inner_ceilings_share_an_outer_one() -> None:
    """Three levels: two teams of at most six calls each inside one of at most eight."""
    pair = Star([Independent(6).within(Budget(calls=6))] * 2).within(Budget(calls=8))

    result = run(Star([pair], model="m"), Budget(calls=50))

    below = [spent_in(result, f"executor[0]/executor[{i}]")[2] for i in range(2)]
    assert result.status == "completed"
    assert sum(below) == 6
    assert max(below) <= 6
    assert spent_in(result, "executor[0]")[2] == 8


@pytest.mark.parametrize(
    "topology",
    [
        Mesh([Star(2)] * 3, rounds=2),
        Star([Mesh(3)] * 2, rounds=2),
        Star([Star([Star(2)] * 2)] * 2),
        Hybrid([Chain(2), Agent("executor")], peer_rounds=2),
    ],
    ids=lambda topology: topology.name,
)
def test_a_seat_asked_again_goes_on_counting_and_a_seed_decides_all(topology: Topology) -> None:
    topology = topology.with_model("m")
    paced(topology, 300)

    result = run(topology, Budget(calls=400), Noisy(), times=20, seed=3)

    assert (result.status, len(result.attempts)) == ("completed", topology.calls())
    assert len({(a.seat, a.step) for a in result.attempts}) == len(result.attempts)
    tight = run(topology, Budget(calls=topology.calls() * 2 // 3), Noisy(), times=20, seed=3)
    assert tight.metrics["refusals"] > 0


# --- what an inner topology says about its own seats


class Told(Noisy):
    """Writes 500 tokens, and notes how long each request may be answered and how long its mails are."""

    def __init__(self) -> None:
        self.limits: dict[str, set[int]] = {}
        self.lengths: dict[str, set[int]] = {}

    async def complete(self, request: ChatRequest) -> ChatReply:
        words = request.messages[0].content.partition(" ")[0]
        blocks = read_blocks(request.messages[-1].content)
        self.limits.setdefault(words, set()).add(request.max_tokens)
        lengths = {-(-len(b.body.encode()) // 4) for b in blocks if b.tag in ("mail", "part")}
        self.lengths.setdefault(words, set()).update(lengths)
        await nap_s(1)
        reply = says(request)
        if isinstance(reply, Plan):
            reply = Plan(tuple(Part("x" * 2000) for _ in reply.parts))
        else:
            reply = Report("x" * 2000) if isinstance(reply, Report) else Verdict("accept", "x" * 2000)
        return ChatReply(reply_json(reply), Usage(prompt_tokens(request), 20))


def worded(role: str, word: str) -> Agent:
    """An agent whose prompt begins with a word to know it by."""
    return Agent(role, prompt=f"{word} works.")


def test_an_inner_topology_paces_its_own_seats_and_no_others() -> None:
    inner = Star([worded("executor", "inside")], verifier=worded("verifier", "inside"))
    inner.pacing = FixedPacing(700)
    outer = Star([inner, worded("executor", "beside")], verifier=worded("verifier", "beside"), model="m")
    outer.pacing = FixedPacing(900)
    model = Told()

    run(outer, Budget(calls=50), model)

    assert model.limits["inside"] == {700}
    assert model.limits["beside"] == {900}


@pytest.mark.parametrize(("without", "within"), [(16, 200), (200, 16)])
def test_a_message_has_the_length_that_the_topology_of_its_channel_gives_it(without: int, within: int) -> None:
    """What crosses into an inner team came along a channel of the outer one; inside, neither may be longer than within."""
    inner = Independent([worded("executor", "inside")], combine="best", verifier=worded("verifier", "joins"))
    inner.message_tokens = within
    outer = Star([inner, worded("executor", "beside")], verifier=worded("verifier", "beside"), model="m")
    outer.message_tokens = without
    model = Told()

    run(outer, Budget(calls=50), model)

    assert model.lengths["beside"] == {without}
    assert model.lengths["inside"] == {min(without, within)}
    assert model.lengths["joins"] == {within, min(without, within)}


def test_windows_are_held_against_the_length_of_the_seats_own_topology() -> None:
    inner = Star(4)
    inner.message_tokens = 300_000
    outer = Star([inner], model="m")

    with pytest.raises(ConfigError, match=r"executor\[0\]/verifier.* 5 messages of 300,?000 tokens"):
        run(outer, Budget(calls=50))


# --- what is built


def test_a_model_is_filled_in_at_every_level_and_what_is_there_stays() -> None:
    own = Star([Agent("executor", model="own"), Agent("executor")])
    team = Chain([Mesh([own, own]).within(Budget(calls=9)), Agent("executor")]).with_model("m")

    models = {seat: agent.model for seat, agent in agents_of(team).items()}

    assert {seat for seat, model in models.items() if model == "own"} == {
        "executor[0]/agent[0]/executor[0]",
        "executor[0]/agent[1]/executor[0]",
    }
    assert set(models.values()) == {"own", "m"}
    assert [agent.model for agent in agents_of(own).values()] == [None, "own", None, None]
    assert wired(team).scopes == {"run/executor[0]": ("run", Budget(calls=9))}


def test_teams_are_nested_so_deep_and_no_deeper() -> None:
    def nested(depth: int) -> Topology:
        team: Topology = Single(model="m")
        for _ in range(depth - 1):
            team = Independent([team])
        return team

    assert run(nested(MAX_DEPTH), Budget(calls=9)).status == "completed"
    for depth in (MAX_DEPTH + 1, 300):
        with pytest.raises(ConfigError, match="nested more than 8 deep, at agent"):
            wired(nested(depth))


def test_a_team_within_itself_is_refused_as_too_deep() -> None:
    team = Independent(1)
    team.seats()["agent[0]"] = team  # type: ignore[index]

    with pytest.raises(ConfigError, match="nested more than 8 deep"):
        wired(team)


def test_nests_of_too_many_are_refused_before_all_are_counted() -> None:
    wide = Independent(MAX_SEATS)
    for _ in range(3):
        wide = Independent([wide] * MAX_SEATS)

    with pytest.raises(ConfigError, match="more than 1000 agents in all, counted up to agent"):
        wired(wide)
    often: Topology = Single()
    for _ in range(3):
        often = Mesh([often] * 2, rounds=101)
    with pytest.raises(ConfigError, match="at most 1,000,000"):
        wired(often)


def test_two_seats_of_one_path_are_refused() -> None:
    team = Topology("own", {"a": Single(), "a/agent": Agent("executor")})

    with pytest.raises(ConfigError, match="two seats have the path a/agent"):
        wired(team)


@pytest.mark.parametrize("seat", ["planner", "hub", "verifier"])
def test_a_team_takes_no_seat_whose_reply_it_cannot_give(seat: str) -> None:
    kind: Any = Star if seat == "planner" else Tree
    with pytest.raises(ConfigError, match=r"Chain\(2\) as a seat gives a report, and a (plan|verdict) is needed here"):
        kind(2, **{seat: Chain(2)})


@pytest.mark.parametrize(
    ("ceiling", "what"), [(Budget(seconds=3), "limits seconds"), (Budget(calls=1), "too small for one call")]
)
def test_a_ceiling_that_cannot_be_kept_is_refused(ceiling: Budget, what: str) -> None:
    with pytest.raises(ConfigError, match=what) as refused:
        run(Star([Chain(2).within(ceiling)], model="m"), Budget(calls=99))

    assert "executor[0]" in str(refused.value)


class Silent(Topology):
    """Gives no answer."""

    async def solve(self, task: Task, team: Team) -> Outcome:
        return None


def test_a_team_without_an_answer_fails_as_a_seat() -> None:
    result = run(Independent([Silent("silent", {"a": Agent("executor")})], model="m"), Budget(calls=9))

    assert (result.status, result.answer) == ("failed", None)
    assert "its topology silent gave no answer" in result.reason


# --- live


async def _life(disk: list[Entry], topology: Topology, model: ScriptedModel) -> tuple[RunResult, dict[str, int]]:
    """One life of a live run, and what its ledger holds as settled in each scope."""

    async def write(ops: Sequence[Sequence[Any]]) -> list[None]:
        await anyio.lowlevel.checkpoint()
        disk.extend(op for part in ops for op in part if isinstance(op, Entry))
        return [None for _ in ops]

    budget = Budget(tokens=10_000)
    prepared = prepare(RunSpec("run", topology, Task("How many?", answer="42"), budget, 0), {"m": model}.__getitem__)
    epoch = 1 + max((entry.epoch for entry in disk), default=0)
    journal = LiveJournal("run", BankClient(write), Life(epoch, list(disk), []), len(budget.dimensions))
    run = Run(prepared, LoopClock(), journal, lambda *_: None, epoch)
    run.earlier.extend(journal.history.restore(run.ledger, "run"))
    result = await run.execute()
    return result, {name: scope.settled & (2**96 - 1) for name, scope in run.ledger.scopes.items()}


@pytest.mark.anyio
async def test_a_live_run_of_nested_teams_is_taken_up_again_with_each_scope_in_order() -> None:
    """Cut after any of its commits."""
    topology = Star([Star(2).within(Budget(tokens=500)), Agent("executor")], model="m")
    whole: list[Entry] = []
    result, settled = await _life(whole, topology, scripted(virtual=False))
    assert (result.status, settled) == ("completed", {"run": 700, "run/executor[0]": 400})
    scopes = {orjson.loads(entry.body).get("scope") for entry in whole if entry.state == "sent"}
    assert scopes == {"run", "run/executor[0]"}

    for cut in range(1, len(whole)):
        disk, model = whole[:cut], scripted(virtual=False)
        lost = sum(entry.state == "sent" for entry in disk) - sum(entry.state == "settled" for entry in disk)
        inner = {e.key for e in disk if "executor[0]/" in e.key and e.state == "sent"}
        lost_inner = len(inner) - sum(e.key in inner and e.state == "settled" for e in disk)

        again, settled = await _life(disk, topology, model)

        assert (again.status, again.answer) == ("completed", "42")
        # What a crash cost within the ceiling is no longer there to be spent within it.
        within = min(500, 400 + 100 * lost_inner)
        assert settled["run/executor[0]"] == within
        assert again.spend.total.tokens == settled["run"] == 300 + within + 100 * (lost - lost_inner)
