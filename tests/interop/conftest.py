"""Servers that others wrote, installed by `make interop` into .interop and started here on loopback."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest

FOLDER = Path(os.environ.get("OSTROM_INTEROP", ".interop"))
START_S = 120.0
WORDS = "Six times seven is forty-two."


@dataclass(frozen=True)
class Server:
    """A server under test."""

    base_url: str
    model: str


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@contextmanager
def running(command: Sequence[str], port: int, log: Path, model: str) -> Iterator[Server]:
    """Start a server, wait until it answers, and end it by its own process."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        until = time.monotonic() + START_S
        while True:  # a process of others tells nobody when it is ready, so it is asked
            assert process.poll() is None, f"{command[0]} ended: {log.read_text()[-2000:]}"
            assert time.monotonic() < until, f"{command[0]} does not answer: {log.read_text()[-2000:]}"
            with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=1):
                break
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.1)
        yield Server(f"http://127.0.0.1:{port}/v1", model)
    finally:
        process.kill()  # llama.cpp finishes what it writes before it obeys a gentler signal
        process.wait(timeout=20)


def llama_command(folder: Path, port: int, *more: str) -> list[str]:
    python = FOLDER / "venv" / "bin" / "python"
    assert python.exists(), "run this by `make interop`, which installs the servers"
    gguf = folder / "tiny.gguf"
    if not gguf.exists():
        maker = Path(__file__).with_name("tiny_gguf.py")
        subprocess.run([str(python), str(maker), str(gguf)], check=True, stdout=sys.stderr)
    command = [str(python), "-m", "llama_cpp.server", "--model", str(gguf), "--model_alias", "tiny"]
    return [*command, "--n_ctx", "4096", "--n_threads", "2", "--host", "127.0.0.1", "--port", str(port), *more]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("interop")


@pytest.fixture(scope="session")
def llama(folder: Path) -> Iterator[Server]:
    """llama-cpp-python, which generates for real and tells no usage in streams."""
    port = free_port()
    command = llama_command(folder, port, "--interrupt_requests", "false", "--logits_all", "true")
    with running(command, port, folder / "llama.log", "tiny") as server:
        yield server


@pytest.fixture(scope="session")
def rude_llama(folder: Path) -> Iterator[Server]:
    """The same as it comes: a new request silently cuts the streams of all others."""
    port = free_port()
    with running(llama_command(folder, port), port, folder / "rude.log", "tiny") as server:
        yield server


@pytest.fixture(scope="session")
def aimock(folder: Path) -> Iterator[Server]:
    """aimock, which plays fixtures with the figures of OpenAI's usage and obeys no limit."""
    program = FOLDER / "node_modules" / ".bin" / "llmock"
    assert program.exists(), "run this by `make interop`, which installs the servers"
    fixtures = folder / "fixtures"
    fixtures.mkdir()
    usage = {"prompt_tokens": 300, "completion_tokens": 40, "total_tokens": 340}
    told = {"match": {}, "response": {"content": WORDS, "usage": usage}}
    called = {
        "match": {"toolName": "look"},
        "response": {"toolCalls": [{"name": "look", "arguments": {}}], "usage": usage},
    }
    (fixtures / "all.json").write_text(json.dumps({"fixtures": [called, told]}))
    port = free_port()
    with running([str(program), "-p", str(port), "-f", str(fixtures)], port, folder / "aimock.log", "mock") as server:
        yield server
