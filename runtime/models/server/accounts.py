"""Owns the server's own count: what each model was asked and what an honest meter has billed for it."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from runtime.usage import Usage


@dataclass
class Account:
    """What one model was asked and has billed since the server started."""

    requests: int = 0
    """Valid requests for it, whatever became of them."""
    answered: int = 0
    """Worked on to the end, hence billed; a fault, or a client that left, may have kept the answer from arriving."""
    refused: int = 0
    """Refused before any work, hence not billed; those over a rate limit included."""
    limited: int = 0
    """Those of the refused that were over a rate limit of this server."""
    failed: int = 0
    """Ended by another error of the model, not billed."""
    unmetered: int = 0
    """Answered without a usage, hence missing in the token counts."""
    input_tokens: int = 0
    output_tokens: int = 0
    """Thinking and visible tokens that were generated, whatever the answer's own usage says."""
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Input and output together: what a token budget counts."""
        return self.input_tokens + self.output_tokens

    def bill(self, usage: Usage | None) -> None:
        """Count an answer."""
        self.answered += 1
        if usage is None:
            self.unmetered += 1
        else:
            self.input_tokens += usage.input_tokens
            self.output_tokens += usage.output_tokens
            self.cached_tokens += usage.cached_tokens
            self.reasoning_tokens += usage.reasoning_tokens


@dataclass
class Books:
    """All accounts of a server."""

    accounts: dict[str, Account] = field(default_factory=dict)
    """By the name a client asked for, the argument of a fault mode included."""
    rejected: int = 0
    """Requests for a completion that reached no model, because of what stood in them."""
    trapped: int = 0
    """Requests that came where a redirect pointed: somebody followed it."""

    def of(self, name: str) -> Account:
        """The account of a model, opened at its first request."""
        return self.accounts.setdefault(name, Account())

    def copy(self, name: str) -> Account:
        """What stands in a model's account now; empty where it has none."""
        return replace(self.accounts.get(name, Account()))

    def total(self) -> Account:
        """The sum over all models."""
        rows = [asdict(account) for account in list(self.accounts.values())]
        return Account(**{name: sum(row[name] for row in rows) for name in asdict(Account())})

    def document(self) -> dict[str, Any]:
        """The answer to GET /ostrom/ledger."""
        models = {name: asdict(account) for name, account in self.accounts.items()}
        return {"models": models, "rejected": self.rejected, "trapped": self.trapped}
