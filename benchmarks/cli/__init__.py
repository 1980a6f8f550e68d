"""The command line `ostrom`: one file per group of commands; this one puts them together and turns errors into exit codes."""

import sys

from rich.console import Console
from rich.text import Text

from benchmarks.cli import checks as _checks  # noqa: F401  (importing registers the commands)
from benchmarks.cli import listing as _listing  # noqa: F401
from benchmarks.cli import operate as _operate  # noqa: F401
from benchmarks.cli import pictures as _pictures  # noqa: F401
from benchmarks.cli import replays as _replays  # noqa: F401
from benchmarks.cli import runs as _runs  # noqa: F401
from benchmarks.cli import serving as _serving  # noqa: F401
from benchmarks.cli import sweeps as _sweeps  # noqa: F401
from benchmarks.cli.app import app
from benchmarks.tables import plain
from runtime.errors import ConfigError, OrchestrationError

FAILED, MISUSE = 1, 2


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 misuse."""
    try:
        app()
    except OrchestrationError as error:
        # One line, however long: a terminal wraps it by itself, and a log or a `grep` wants it whole.
        said = Text.assemble(("error: ", "bold red"), plain(str(error)))
        Console(stderr=True).print(said, soft_wrap=True)
        sys.exit(MISUSE if isinstance(error, ConfigError) else FAILED)
