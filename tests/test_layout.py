"""The rules on where things may stand and what tests may do. Each has a planted offence that shows it bites."""

import ast
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("runtime", "policies", "topologies", "benchmarks")
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60
NO_DOCSTRING_UP_TO_LINES = 5

MAY_CATCH_EVERYTHING = ("runtime/host.py", "runtime/boundary.py")
MAY_IMPORT = {
    "ray": ("runtime/cluster.py", "runtime/joining.py"),
    "openai": ("runtime/models/openai.py",),
}
# What counts money or decides takes numbers and gives numbers: it can then be tested on thousands of cases, and replayed.
PURE = ("runtime/bank/ledger*", "runtime/bank/book*", "runtime/usage.py", "runtime/budget.py", "policies/*")
IMPURE = ("anyio", "asyncio", "time")
# Policies that are procedures, not kernels: they wait for what they are handed, so they may know anyio (no clock even so).
PROCEDURES: tuple[str, ...] = ()


def matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and top-level name of every import: deferred, for types only, or by `import_module("name")`."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name.partition(".")[0]) for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield node.lineno, module.partition(".")[0]
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield node.lineno, module.partition(".")[0]


def catches_everything(node: ast.AST) -> bool:
    """Whether this swallows any error. `except BaseException` that ends in `raise` only cleans up."""
    match node:
        case ast.ExceptHandler(type=None):
            return True
        case ast.ExceptHandler(type=kind, body=[*_, last]):
            cleans_up = isinstance(last, ast.Raise) and last.exc is None
            broad = {"Exception"} if cleans_up else {"Exception", "BaseException"}
        case ast.Call(func=ast.Name(id="suppress") | ast.Attribute(attr="suppress"), args=args):
            kind, broad = ast.Tuple(elts=args), {"Exception", "BaseException"}
        case _:
            return False
    named = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(isinstance(name, ast.Name) and name.id in broad for name in named)


def rule_docstring(path: str, text: str, tree: ast.Module) -> Iterator[str]:
    if len(text.splitlines()) > NO_DOCSTRING_UP_TO_LINES and not ast.get_docstring(tree):
        yield "says nowhere what it owns: no docstring"


def rule_length(path: str, text: str, tree: ast.Module) -> Iterator[str]:
    if (n_lines := len(text.splitlines())) > MAX_FILE_LINES:
        yield f"{n_lines} lines, {MAX_FILE_LINES} allowed"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            n_lines = node.end_lineno - node.lineno + 1
            if n_lines > MAX_FUNCTION_LINES:
                yield f"{node.lineno}: {node.name} has {n_lines} lines, {MAX_FUNCTION_LINES} allowed"


def rule_broad_except(path: str, text: str, tree: ast.Module) -> Iterator[str]:
    if not matches(path, MAY_CATCH_EVERYTHING):
        yield from (f"{node.lineno}: catches everything" for node in ast.walk(tree) if catches_everything(node))  # type: ignore[attr-defined]


def rule_foreign_imports(path: str, text: str, tree: ast.Module) -> Iterator[str]:
    for line, name in imported(tree):
        if name in MAY_IMPORT and not matches(path, MAY_IMPORT[name]):
            yield f"{line}: imports {name}; only {', '.join(MAY_IMPORT[name])} may"


def rule_pure(path: str, text: str, tree: ast.Module) -> Iterator[str]:
    if matches(path, PURE):
        allowed = ("anyio",) if matches(path, PROCEDURES) else ()
        yield from (
            f"{line}: imports {name}" for line, name in imported(tree) if name in IMPURE and name not in allowed
        )


def rule_no_sleep(path: str, text: str, tree: ast.Module) -> Iterator[str]:
    clocks = {"time"}
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                clocks.update(alias.asname for alias in names if alias.name == "time" and alias.asname)
            case ast.ImportFrom(module="time", names=names) if any(alias.name == "sleep" for alias in names):
                yield f"{node.lineno}: imports time.sleep; wait for the condition itself"
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr="sleep") if name in clocks:
                yield f"{node.lineno}: time.sleep; wait for the condition itself"


Rule = Callable[[str, str, ast.Module], Iterator[str]]
SOURCE_RULES: tuple[Rule, ...] = (rule_docstring, rule_length, rule_broad_except, rule_foreign_imports, rule_pure)
TEST_RULES: tuple[Rule, ...] = (rule_no_sleep,)


def offences(rule: Rule, path: str, text: str) -> list[str]:
    return [f"{path}: {offence}" for offence in rule(path, text, ast.parse(text, path))]


def offences_in(rule: Rule, folders: tuple[str, ...]) -> list[str]:
    files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]
    assert files, "nothing to check"
    return [o for file in files for o in offences(rule, file.relative_to(ROOT).as_posix(), file.read_text("utf-8"))]


@pytest.mark.parametrize("rule", SOURCE_RULES, ids=lambda rule: rule.__name__)
def test_the_packages_keep(rule: Rule) -> None:
    assert not offences_in(rule, PACKAGES)


@pytest.mark.parametrize("rule", TEST_RULES, ids=lambda rule: rule.__name__)
def test_the_tests_keep(rule: Rule) -> None:
    assert not offences_in(rule, ("tests",))


LONG_FUNCTION = "def long():\n" + "    pass\n" * MAX_FUNCTION_LINES
PLANTED: list[tuple[Rule, str, str]] = [
    (rule_docstring, "runtime/x.py", "x = 1\n" * 6),
    (rule_length, "runtime/x.py", "x = 1\n" * 301),
    (rule_length, "runtime/x.py", LONG_FUNCTION),
    (rule_length, "runtime/x.py", "async " + LONG_FUNCTION),
    (rule_broad_except, "runtime/x.py", "try: f()\nexcept: pass"),
    (rule_broad_except, "runtime/x.py", "try: f()\nexcept Exception as e: raise"),
    (rule_broad_except, "runtime/x.py", "try: f()\nexcept (OSError, Exception): pass"),
    (rule_broad_except, "runtime/x.py", "try: f()\nexcept BaseException: pass"),
    (rule_broad_except, "runtime/x.py", "with suppress(Exception): f()"),
    (rule_foreign_imports, "topologies/star.py", "def f():\n    import ray.actor"),
    (rule_foreign_imports, "policies/x.py", "from openai.types import Chat"),
    (rule_foreign_imports, "runtime/run.py", "from importlib import import_module\nimport_module('ray')"),
    (rule_foreign_imports, "runtime/cluster.py", "import openai"),
    (rule_foreign_imports, "benchmarks/x.py", "if TYPE_CHECKING:\n    import ray"),
    (rule_pure, "runtime/bank/ledger.py", "import anyio"),
    (rule_pure, "runtime/bank/ledger/holds.py", "import time"),
    (rule_pure, "runtime/usage.py", "from asyncio import Lock"),
    (rule_pure, "policies/auction/weights.py", "from time import monotonic"),
    (rule_no_sleep, "tests/x.py", "import time\ntime.sleep(1)"),
    (rule_no_sleep, "tests/x.py", "import time as t\nt.sleep(1)"),
    (rule_no_sleep, "tests/x.py", "from time import sleep"),
]
FINE: list[tuple[Rule, str, str]] = [
    (rule_docstring, "runtime/x.py", "x = 1\n" * 5),
    (rule_docstring, "runtime/x.py", '"""Owns x."""\n' + "x = 1\n" * 9),
    (rule_length, "runtime/x.py", "x = 1\n" * 300),
    (rule_length, "runtime/x.py", LONG_FUNCTION.replace("    pass\n", "", 1)),
    (rule_broad_except, "runtime/host.py", "try: f()\nexcept Exception: pass"),
    (rule_broad_except, "runtime/x.py", "try: f()\nexcept BaseException:\n    close()\n    raise"),
    (rule_foreign_imports, "runtime/cluster.py", "import ray"),
    (rule_foreign_imports, "runtime/models/__init__.py", "from runtime.models.openai import Endpoint"),
    (rule_pure, "runtime/clock.py", "import time"),
    (rule_no_sleep, "tests/x.py", "import anyio\nanyio.sleep(1)"),
]


@pytest.mark.parametrize(("rule", "path", "text"), PLANTED)
def test_a_rule_finds_an_offence(rule: Rule, path: str, text: str) -> None:
    assert len(offences(rule, path, text)) == 1


@pytest.mark.parametrize(("rule", "path", "text"), FINE)
def test_a_rule_lets_pass_what_is_allowed(rule: Rule, path: str, text: str) -> None:
    assert not offences(rule, path, text)


@pytest.mark.parametrize("package", ["topologies", "policies"])
def test_importing_every_module_of_a_package_loads_neither_ray_nor_openai(package: str) -> None:
    """What the source does not show: an import through another module."""
    program = f"""
import pkgutil, sys, {package}
for module in pkgutil.walk_packages({package}.__path__, "{package}."):
    __import__(module.name)
print(*sorted({{"ray", "openai"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


def test_the_face_of_the_runtime_loads_neither_ray_nor_openai() -> None:
    program = "import runtime, sys; print(*sorted({'ray', 'openai'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


NOBODY = ("192.0.2.1", 80)  # set aside for documentation


@pytest.mark.parametrize(
    ("family", "kind", "method", "args"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, "connect", (NOBODY,)),
        (socket.AF_INET, socket.SOCK_STREAM, "connect_ex", (NOBODY,)),
        (socket.AF_INET, socket.SOCK_DGRAM, "sendto", (b"x", NOBODY)),
        (socket.AF_INET6, socket.SOCK_STREAM, "connect", (("2001:db8::1", 80),)),
    ],
)
def test_no_socket_reaches_another_machine(
    family: int, kind: int, method: str, args: tuple[object, ...], refused_calls: list[str]
) -> None:
    with socket.socket(family, kind) as own, pytest.raises(RuntimeError, match="loopback only"):
        getattr(own, method)(*args)

    assert len(refused_calls) == 1
    refused_calls.clear()


def test_no_name_is_looked_up(refused_calls: list[str]) -> None:
    with pytest.raises(RuntimeError, match="loopback only"):
        socket.getaddrinfo("another-machine.invalid", 80)

    refused_calls.clear()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_test_can_reach_its_own_machine(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection((host, server.getsockname()[1]), timeout=5).close()
