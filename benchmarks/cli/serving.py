"""Owns `ostrom serve`: the catalogue's virtual models behind an OpenAI-compatible endpoint."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli.app import app, console
from benchmarks.experiment import load_experiment
from runtime.errors import ConfigError
from runtime.models.base import ChatModel
from runtime.models.catalog import Catalog
from runtime.models.scripted import ScriptedModel
from runtime.models.spec import ModelSpec


@app.command(
    epilog="Example:  ostrom serve --scripted yes=10,2,0.1,42 &  OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=none "
    "ostrom run 'What is 6 times 7?' --model openai/yes --tokens 5000"
)
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
) -> None:
    """Serve the simulated and scripted models over HTTP, as any OpenAI client expects them."""
    from runtime.models.server import serve as serve_models  # starlette and uvicorn are needed by this command only

    catalog = Catalog()
    models: dict[str, ChatModel] = {name: catalog.get(name) for name in ("sim/small", "sim/large")}
    if experiment is not None:
        for name, model in load_experiment(experiment, {})[0].catalog.items():
            if not isinstance(model, ModelSpec):
                models[name] = model
    models.update(dict(map(scripted_model, scripted or [])))
    serve_models(models, host, port, lambda url: console().print(f"serving {', '.join(models)} at {url}"))


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
