"""`ostrom serve`: what it prints, what it takes, and how it ends."""

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.models.server import MODES


def ask(base_url: str, model: str) -> tuple[int, Any]:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}]}).encode()
    request = urllib.request.Request(f"{base_url}/chat/completions", body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, error.headers


def test_all_fault_modes_are_listed_with_row_and_argument(ostrom_here: Callable[..., Any], tmp_path: Path) -> None:
    done = ostrom_here("serve", "--list-faults", cwd=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"fault/{name} " in done.stdout for name in MODES)
    flaky = next(line for line in done.stdout.splitlines() if "fault/flaky" in line)
    assert ("E2" in flaky, ":2" in flaky) == (True, True)


@pytest.mark.parametrize("option", ["--rpm", "--tpm", "--max-parallel"])
def test_a_limit_that_lets_nothing_through_is_misuse(
    ostrom_here: Callable[..., Any], tmp_path: Path, option: str
) -> None:
    done = ostrom_here("serve", option, "0", cwd=tmp_path)

    assert done.returncode == 2
    assert "=0: a limit is 1 or more" in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_has_examples(ostrom_here: Callable[..., Any], tmp_path: Path) -> None:
    done = ostrom_here("serve", "--help", cwd=tmp_path)

    for words in ("--rpm 60 --tpm 40000 --max-parallel 8", "fault/flaky:2", "--list-faults"):
        assert words in " ".join(done.stdout.split())


def test_limits_and_faults_are_served_and_an_interrupt_ends_it_with_answers_under_way(
    ostrom: Callable[..., Any], tmp_path: Path
) -> None:
    serving = ostrom("serve", "--port", "0", "--rpm", "3", "--max-parallel", "2", "--no-announce", cwd=tmp_path)
    try:
        base_url = serving.stdout.readline().rpartition(" at ")[2].strip()
        host, _, port = base_url.removeprefix("http://").removesuffix("/v1").partition(":")
        hanging = [socket.create_connection((host, int(port)), timeout=10) for _ in range(2)]
        answers = [ask(base_url, "fault/ok"), ask(base_url, "fault/500")]
        body = b'{"model": "fault/stall", "messages": [{"role": "user", "content": "hi"}]}'
        hanging[0].sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
        assert hanging[0].recv(10) == b"HTTP/1.1 2"
        answers.append(ask(base_url, "fault/ok"))
    finally:
        serving.terminate()
        said = serving.communicate(timeout=20)

    assert [status for status, _ in answers] == [200, 500, 429]
    assert 1 <= int(answers[2][1]["retry-after"]) <= 60
    assert not any(name.lower().startswith("x-ratelimit") for _, headers in answers for name in headers)
    assert said == ("", "")
    for connection in hanging:
        connection.close()
