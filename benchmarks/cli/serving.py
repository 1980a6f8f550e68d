"""Owns `ostrom serve`: the catalogue's virtual models, and fault modes, behind an OpenAI-compatible endpoint."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from benchmarks.cli.app import app, console
from benchmarks.experiment import load_experiment
from runtime.errors import ConfigError
from runtime.models.base import ChatModel
from runtime.models.catalog import Catalog
from runtime.models.scripted import ScriptedModel
from runtime.models.spec import ModelSpec

EXAMPLES = (
    "Examples:",
    "ostrom serve --scripted yes=10,2,0.1,42 &  OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=none "
    "ostrom run 'What is 6 times 7?' --model openai/yes --tokens 5000",
    "ostrom serve --rpm 60 --tpm 40000 --max-parallel 8   (more than that is told 429 and when to come again)",
    "ostrom serve &  curl http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' "
    '-d \'{"model": "fault/flaky:2", "messages": \\[{"role": "user", "content": "Hello"}]}\'   (fails twice, then answers)',
    "ostrom serve --list-faults",
)


@app.command(epilog="\n\n".join(EXAMPLES))
def serve(
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    scripted: Annotated[
        list[str] | None,
        typer.Option(
            help="A scripted model as NAME=INPUT,OUTPUT,SECONDS,TEXT: tokens in, tokens out, latency, its answer."
        ),
    ] = None,
    experiment: Annotated[Path | None, typer.Option(help="Serve the models of this experiment file, too.")] = None,
    rpm: Annotated[int | None, typer.Option(help="Requests let through in any minute, over all models.")] = None,
    tpm: Annotated[int | None, typer.Option(help="Tokens let through in any minute, prompts and replies.")] = None,
    max_parallel: Annotated[int | None, typer.Option(help="Requests let through at once.")] = None,
    announce: Annotated[
        bool, typer.Option(help="Tell the limits in x-ratelimit-* headers, or only by refusing.")
    ] = True,
    list_faults: Annotated[bool, typer.Option("--list-faults", help="Print the models fault/... and leave.")] = False,
) -> None:
    """Serve the simulated, recorded and scripted models over HTTP, as any OpenAI client expects them, streams included.

    Beside them there is a model fault/MODE for each way in which an endpoint goes wrong, to test clients with. What was asked
    and billed stands at /ostrom/ledger.
    """
    # starlette and uvicorn are needed by this command only
    from runtime.models.server import Limits
    from runtime.models.server import serve as serve_models

    if list_faults:
        print_faults()
        return
    limits = Limits(rpm, tpm, max_parallel, announced=announce)
    catalog = Catalog()
    models: dict[str, ChatModel] = {name: catalog.get(name) for name in ("sim/small", "sim/large")}
    if experiment is not None:
        for name, model in load_experiment(experiment, {})[0].catalog.items():
            if not isinstance(model, ModelSpec):
                models[name] = model
    models.update(dict(map(scripted_model, scripted or [])))
    serve_models(
        models,
        host,
        port,
        lambda url: console().print(f"serving {', '.join(models)} and fault/... at {url}"),
        limits=limits,
        faults=True,
    )


def print_faults() -> None:
    """Print all fault modes."""
    from runtime.models.server import MODES

    table = Table("model", "row", "what it does", "argument")
    for name, mode in MODES.items():
        argument = f":{mode.default or 'N'}" if mode.takes else ""
        table.add_row(f"fault/{name}", mode.row, mode.what, argument)
    console().print(table, markup=False)


def scripted_model(text: str) -> tuple[str, ScriptedModel]:
    """A scripted model from `NAME=INPUT,OUTPUT,SECONDS,TEXT`.

    Raises:
        ConfigError: the text has another form.
    """
    name, equals, rest = text.partition("=")
    fields = rest.split(",", 3)
    try:
        given, written, latency_s, answer = int(fields[0]), int(fields[1]), float(fields[2]), fields[3]
    except (ValueError, IndexError):
        raise ConfigError(
            f"--scripted {text!r}: write it as NAME=INPUT,OUTPUT,SECONDS,TEXT, as in m=500,500,0.05,42"
        ) from None
    if not equals or not name:
        raise ConfigError(f"--scripted {text!r} has no name; write NAME=INPUT,OUTPUT,SECONDS,TEXT")
    return name, ScriptedModel([answer], input_tokens=given, output_tokens=written, latency_s=latency_s, name=name)
