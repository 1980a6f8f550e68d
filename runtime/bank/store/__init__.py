"""The face of the store: what was bought and what came out of it, on one disk, in one chained file."""

from runtime.bank.store.file import Store
from runtime.bank.store.gc import Kept, compacted
from runtime.bank.store.ops import Entry, Granted, Note, Op, Opened, Pruned, Ruled, Sealed, Taken, ToppedUp

__all__ = (
    "Entry",
    "Granted",
    "Kept",
    "Note",
    "Op",
    "Opened",
    "Pruned",
    "Ruled",
    "Sealed",
    "Store",
    "Taken",
    "ToppedUp",
    "compacted",
)
