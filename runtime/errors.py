"""Owns every error a caller may see.

OrchestrationError                      catch this at the edge of an application
├── ConfigError                         found before anything ran; the caller's mistake
├── BudgetError
│   ├── BudgetExceeded                  a request does not fit and waiting cannot help
│   ├── BudgetConflict                  one idempotency key, two different requests
│   ├── StaleEpoch                      a host that was replaced tried to send
│   └── RunHalted                       an operator paused or cancelled the run; nothing new may be sent
├── DeliveryError
│   ├── UnknownSeat                     no such seat in this team
│   ├── NoChannel                       the topology declares no channel for this mail
│   └── HostLost                        the host is gone; retryable
├── ModelError
│   ├── ModelRateLimited                retryable
│   ├── ModelTimeout                    retryable
│   ├── ModelUnavailable                retryable
│   │   └── ModelUnreachable            no connection came about; retryable, and nothing is billed
│   ├── ModelRefused                    the endpoint refused the request before any work; not billed
│   └── BadModelReply                   the reply cannot be used
├── ReplayDiverged                      a replayed run asked for something else than the recorded one
├── StoreError                          the store cannot be opened, read or written
├── AgentFailed                         an agent's own code raised; the text of the cause
└── InternalError                       an invariant broke: our bug, please report

Arguments are positional and all handed to `Exception`, so that every error survives pickle on its way through Ray; the
text is built in `__str__`. `retryable` and `billed` are facts of the class; the retry loop reads nothing else.
"""

from collections.abc import Sequence
from typing import ClassVar


class OrchestrationError(Exception):
    """Base of every error Ostrom raises on purpose."""

    retryable: ClassVar[bool] = False


def error_of(name: str, args: Sequence[object]) -> OrchestrationError:
    """The error of a class of this name and these arguments, as they come out of JSON, where tuples are lists.

    Raises:
        ValueError: there is no such class, or it takes other arguments.
    """
    kind = globals().get(name)
    if not (isinstance(kind, type) and issubclass(kind, OrchestrationError)):
        raise ValueError(f"{name!r} is no error of Ostrom")
    try:
        return kind(*(tuple(arg) if isinstance(arg, list) else arg for arg in args))
    except TypeError:
        raise ValueError(f"{name} takes other arguments than {args!r}") from None


def told(error: OrchestrationError) -> tuple[str, list[object]]:
    """Name and arguments by which `error_of` makes it again, fit for JSON. Of a user's own class, those of the class here that
    it is of; where it has not kept to that one's arguments, what it says."""
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == __name__)
    args = [_plain(arg) for arg in error.args]
    try:
        error_of(kind.__name__, args)
    except ValueError:
        if isinstance(error, ModelError):
            return ModelUnavailable.__name__, [type(error).__name__, _plain(str(error))]
        return AgentFailed.__name__, ["an agent", type(error).__name__, _plain(str(error))]
    return kind.__name__, args


def _plain(arg: object) -> object:
    if arg is None or isinstance(arg, float) or (isinstance(arg, int) and abs(arg) < 2**63):
        return arg
    if isinstance(arg, (tuple, list)):
        return [_plain(one) for one in arg]
    return str(arg).encode(errors="replace").decode()


class ConfigError(OrchestrationError):
    """Found before anything ran: where it is, and the cure."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return self.text


class BudgetError(OrchestrationError):
    """Something about money."""


class BudgetExceeded(BudgetError):
    """A request does not fit into its scope and waiting cannot help. Repeating it cannot help either."""

    def __init__(self, scope: str, dimension: str, need: int, left: int) -> None:
        super().__init__(scope, dimension, need, left)
        self.scope, self.dimension, self.need, self.left = scope, dimension, need, left

    def __str__(self) -> str:
        return f"{self.scope}: {self.need} {self.dimension} needed, {self.left} left"


class BudgetConflict(BudgetError):
    """The same idempotency key came with another request."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return f"attempt {self.key} was reserved before with another body"


class StaleEpoch(BudgetError):
    """A host with an old epoch tried to reserve or send: another host owns the run now."""

    def __init__(self, scope: str, epoch: int, current: int) -> None:
        super().__init__(scope, epoch, current)
        self.scope, self.epoch, self.current = scope, epoch, current

    def __str__(self) -> str:
        return f"{self.scope}: epoch {self.epoch} is over, {self.current} owns it"


class RunHalted(BudgetError):
    """An operator paused or cancelled the run, so nothing new may be sent."""

    def __init__(self, run_id: str, ruling: str) -> None:
        super().__init__(run_id, ruling)
        self.run_id, self.ruling = run_id, ruling

    def __str__(self) -> str:
        return f"{self.run_id} was {self.ruling} by an operator"


class DeliveryError(OrchestrationError):
    """A message could not be delivered."""


class UnknownSeat(DeliveryError):
    """The team has no such seat."""

    def __init__(self, seat: str, known: str) -> None:
        super().__init__(seat, known)
        self.seat, self.known = seat, known

    def __str__(self) -> str:
        return f"no seat {self.seat!r} in this team; it has {self.known}"


class NoChannel(DeliveryError):
    """The topology declares no channel between these two."""

    def __init__(self, sender: str, receiver: str) -> None:
        super().__init__(sender, receiver)
        self.sender, self.receiver = sender, receiver

    def __str__(self) -> str:
        return f"no channel from {self.sender!r} to {self.receiver!r}; declare it in channels()"


class HostLost(DeliveryError):
    """The host that ran this is gone."""

    retryable: ClassVar[bool] = True

    def __init__(self, host: str, text: str) -> None:
        super().__init__(host, text)
        self.host, self.text = host, text

    def __str__(self) -> str:
        return f"{self.host} is lost: {self.text}"


class ModelError(OrchestrationError):
    """A model call failed."""

    billed: ClassVar[bool] = True
    """False where the error itself proves that no work was done, so that the reservation may be given back."""
    retry_after_s: float | None = None
    """How long the endpoint asks to wait; None where it does not say."""


class ModelRateLimited(ModelError):
    """The endpoint asks for patience; it did no work."""

    retryable: ClassVar[bool] = True
    billed: ClassVar[bool] = False

    def __init__(self, model: str, retry_after_s: float | None) -> None:
        super().__init__(model, retry_after_s)
        self.model, self.retry_after_s = model, retry_after_s

    def __str__(self) -> str:
        wait = "" if self.retry_after_s is None else f", retry after {self.retry_after_s:g} s"
        return f"{self.model}: rate limited{wait}"


class ModelTimeout(ModelError):
    """No complete reply within the total deadline of the call."""

    retryable: ClassVar[bool] = True

    def __init__(self, model: str, after_s: float, retry_after_s: float | None = None) -> None:
        super().__init__(model, after_s, retry_after_s)
        self.model, self.after_s, self.retry_after_s = model, after_s, retry_after_s

    def __str__(self) -> str:
        return f"{self.model}: no complete reply within {self.after_s:g} s"


class ModelUnavailable(ModelError):
    """The endpoint cannot be reached or answers with a server error."""

    retryable: ClassVar[bool] = True

    def __init__(self, model: str, text: str, retry_after_s: float | None = None) -> None:
        super().__init__(model, text, retry_after_s)
        self.model, self.text, self.retry_after_s = model, text, retry_after_s

    def __str__(self) -> str:
        return f"{self.model}: unavailable ({self.text})"


class ModelUnreachable(ModelUnavailable):
    """No connection came about, so nothing was sent and nothing can be billed."""

    billed: ClassVar[bool] = False


class ModelRefused(ModelError):
    """The endpoint refused the request before doing any work (a 4xx status), so nothing is billed."""

    billed: ClassVar[bool] = False

    def __init__(self, model: str, status: int, text: str) -> None:
        super().__init__(model, status, text)
        self.model, self.status, self.text = model, status, text

    def __str__(self) -> str:
        return f"{self.model}: refused with {self.status}: {self.text}"


class BadModelReply(ModelError):
    """The reply came but cannot be used.

    `usage` is what it consumed, a `runtime.usage.Usage`, where that is believed; None: charge the whole hold.
    """

    def __init__(self, model: str, reason: str, usage: tuple[int, ...] | None = None) -> None:
        super().__init__(model, reason, usage)
        self.model, self.reason, self.usage = model, reason, usage

    def __str__(self) -> str:
        return f"{self.model}: bad reply: {self.reason}"


class ReplayDiverged(OrchestrationError):
    """A run that is replayed asked for something else than the recorded one; says where first, with both texts."""

    def __init__(self, run_id: str, seat: str, step: int, text: str) -> None:
        super().__init__(run_id, seat, step, text)
        self.run_id, self.seat, self.step, self.text = run_id, seat, step, text

    def __str__(self) -> str:
        return f"run {self.run_id} is not the recorded one: {self.seat}, step {self.step}: {self.text}"


class StoreError(OrchestrationError):
    """The store cannot be opened, read or written; nothing was changed."""

    def __init__(self, path: str, text: str) -> None:
        super().__init__(path, text)
        self.path, self.text = path, text

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


class AgentFailed(OrchestrationError):
    """An agent's or a topology's own code raised. Carries the text of the cause, because Ray drops `__cause__`."""

    def __init__(self, where: str, kind: str, text: str) -> None:
        super().__init__(where, kind, text)
        self.where, self.kind, self.text = where, kind, text

    def __str__(self) -> str:
        return f"{self.where} raised {self.kind}: {self.text}"


class InternalError(OrchestrationError):
    """An invariant broke. This is a bug of Ostrom; please report it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"{self.text} (a bug in Ostrom: please report it)"
