"""Owns `ostrom doctor`: one line per thing that must be right, with the cure where it is not."""

import os
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.text import Text

from benchmarks.cli.app import AsJson, app, console, print_json, run_async
from runtime.bank.service import Bank
from runtime.driver import Runtime
from runtime.errors import OrchestrationError
from runtime.ids import PACKAGES
from runtime.models.catalog import Catalog


class Check(NamedTuple):
    """What one check found."""

    name: str
    ok: bool
    found: str
    cure: str


@app.command(epilog="Example:  ostrom doctor --no-ray")
def doctor(
    out: Annotated[Path, typer.Option(help="Folder that must be writable.")] = Path("out"),
    ray: Annotated[bool, typer.Option(help="Also start and stop a local Ray; takes some seconds.")] = True,
    as_json: AsJson = False,
) -> None:
    """Check Python, Ray, the store, the catalogue, keys by name, and shadowed package names."""
    checks = [_python(), _names(), _store(out), *_catalogue()]
    checks += [_ray(), _foreign()] if ray else [_foreign()]
    if as_json:
        print_json([check._asdict() for check in checks])
    else:
        for check in checks:
            mark, style = ("ok  ", "green") if check.ok else ("FAIL", "bold red")
            cure = "" if check.ok else f"; {check.cure}"
            console().print(Text.assemble((mark, style), f"  {check.name:<10} {check.found}{cure}"), soft_wrap=True)
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    return Check("python", (3, 11) <= sys.version_info[:2] <= (3, 13), found, "use Python 3.11, 3.12 or 3.13")


def _names() -> Check:
    """Whether another folder of the same name hides one of the four packages."""
    home = Path(__file__).resolve().parents[2]
    hidden = []
    for name in PACKAGES:
        found = find_spec(name)
        if found is None or found.origin is None or Path(found.origin).resolve().parents[1] != home:
            hidden.append(f"{name} comes from {None if found is None else found.origin}")
    here = [name for name in PACKAGES if (Path.cwd() / name / "__init__.py").is_file() and Path.cwd() != home]
    hidden += [f"./{name}/ in this folder would hide ours for scripts started here" for name in here]
    cure = "start Python with -P (or PYTHONSAFEPATH=1), or rename the folder"
    return Check("names", not hidden, "; ".join(hidden) or "nothing hides Ostrom's packages", cure)


def _tried(name: str, cure: str, attempt: Callable[[], str]) -> Check:
    try:
        return Check(name, True, attempt(), cure)
    except (OrchestrationError, OSError) as error:
        return Check(name, False, str(error), cure)


def _store(out: Path) -> Check:
    def attempt() -> str:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out) as folder:
            bank = Bank(Path(folder))
            bank.open()
            bank.close()
        return f"{out} can hold a store"

    return _tried("store", "name a folder you may write to with --out", attempt)


def _catalogue() -> list[Check]:
    try:
        catalog = Catalog()
    except OrchestrationError as error:
        return [Check("catalogue", False, str(error), "correct ostrom.toml")]
    checks = [Check("catalogue", True, ", ".join(catalog.names()), "")]
    for name in catalog.names():
        missing = catalog.missing_key(name)
        if missing is not None:
            checks.append(Check("key", False, f"{name} needs {missing}", f"export {missing}=..."))
    return checks


def _ray() -> Check:
    async def start() -> str:
        async with Runtime("local", hosts=1) as runtime:
            return f"a local cluster with {runtime.hosts} host starts and stops"

    return _tried(
        "ray", "free memory or disk, or work without Ray: Runtime(), ostrom sweep --hosts 0", lambda: run_async(start)
    )


def _foreign() -> Check:
    """Other clusters do no harm, since an address is always given; a reader should know of them all the same."""
    current = Path(tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    address = os.environ.get("RAY_ADDRESS") or (current.read_text().strip() if current.is_file() else "")
    found = (
        f"another cluster is known here ({address}); it is joined only by Runtime({address!r})" if address else "none"
    )
    return Check("other ray", True, found, "")
