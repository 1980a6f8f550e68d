"""Owns the command that draws a team before anything is run."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli.app import app
from benchmarks.cli.runs import write_picture
from benchmarks.cli.shorthand import TOPOLOGIES, topology_of
from benchmarks.drawings import draw as drawn


@app.command(
    epilog="Examples:  ostrom draw star:4 --file star.svg\n\nostrom draw tree:2,2 --mermaid\n\n"
    "ostrom draw examples/own_topology.py:Review --file review.svg"
)
def draw(
    topology: Annotated[str, typer.Argument(help=TOPOLOGIES, show_default=False)],
    mermaid: Annotated[bool, typer.Option("--mermaid", help="As Mermaid text instead of SVG.")] = False,
    file: Annotated[Path | None, typer.Option(help="The file to write; without it, standard output.")] = None,
) -> None:
    """Draw a team: who may write to whom. Nothing is run."""
    team = topology_of(topology)
    text = team.draw() if mermaid else drawn(team)
    if file is None:
        typer.echo(text)
        return
    write_picture(file, text)
