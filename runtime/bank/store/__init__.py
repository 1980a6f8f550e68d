"""The face of the store: what was bought and what came out of it, on one disk, in one chained file."""

from runtime.bank.store.file import Store
from runtime.bank.store.ops import Entry, Note, Op, Opened, Sealed

__all__ = ("Entry", "Note", "Op", "Opened", "Sealed", "Store")
