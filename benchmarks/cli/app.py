"""Owns what all commands share: the app, its consoles, and the common options."""

import os
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import anyio
import orjson
import typer
from rich.console import Console

from runtime.boundary import contained

app = typer.Typer(
    name="ostrom",
    help="Teams of language-model agents under one hard shared budget, and experiments that find the team worth its money.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _version(asked: bool) -> None:
    if asked:
        print(f"ostrom {version('ostrom')}")
        raise typer.Exit


@app.callback()
def _options(
    asked: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Out = Annotated[Path, typer.Option("--out", help="Folder of the store, the tables and the report.")]
ToolCalls = Annotated[
    list[str] | None,
    typer.Option(help="Tool calls: a whole number for all tools, or TOOL=N for a named one. TOOL=N is repeatable."),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="A value for the experiment file, as name=value. Repeatable.")
]


class _Screen(Console):
    def on_broken_pipe(self) -> None:
        """Go on in silence: who reads no further has not asked to stop, and what runs may have been paid for."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def console() -> Console:
    """Where text for people goes."""
    screen = _Screen(highlight=False)
    if not screen.is_terminal:
        # A file or a pipe has no width; rich would take 80 columns and cut the tables.
        screen.width = 120
    return screen


def print_json(value: Any) -> None:
    """Print one JSON document."""
    print(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY).decode())


def run_async(what: Any, *args: Any) -> Any:
    """Run an async command on asyncio, with errors out of task groups as plain errors.

    Ctrl-C ends with 130, as shells know it; what was finished by then is in the store.
    """
    try:
        return anyio.run(partial(contained, what.__name__, what, *args))
    except KeyboardInterrupt:
        typer.echo("\ninterrupted; what is finished is kept, and the same command goes on from there", err=True)
        raise typer.Exit(130) from None
