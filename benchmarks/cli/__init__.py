"""The command line `ostrom`: one file per group of commands; this one puts them together and turns errors into exit codes."""

import sys

from rich.console import Console
from rich.text import Text

from benchmarks.cli import checks as _checks  # noqa: F401  (importing registers the commands)
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
    except ConfigError as error:
        _tell("error: ", error)
        sys.exit(MISUSE)
    except OrchestrationError as error:
        _tell(f"{type(error).__name__}: ", error)
        sys.exit(FAILED)


def _tell(kind: str, error: OrchestrationError) -> None:
    # One line, however long: a terminal wraps it by itself, and a log or a `grep` wants it whole.
    Console(stderr=True).print(Text.assemble((kind, "bold red"), plain(str(error))), soft_wrap=True)
