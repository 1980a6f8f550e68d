"""The folder of a local cluster: its owner's as long as it lives, and swept up by whoever comes after a kill."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from runtime.scratch import Scratch

PROGRAM = """
import sys
from runtime.scratch import Scratch
folder = Scratch()
(folder.path / "ray").mkdir()
(folder.path / "ray" / "log").write_text("much")
print(folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@contextmanager
def owner(tmp_path: Path) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """Another process with such a folder."""
    words, pipe = [sys.executable, "-P", "-c", PROGRAM], subprocess.PIPE
    with subprocess.Popen(
        words, env=os.environ | {"TMPDIR": str(tmp_path)}, stdin=pipe, stdout=pipe, text=True
    ) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_what_a_killed_process_left_behind_goes_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    with owner(tmp_path) as (killed, left), owner(tmp_path) as (_, living):
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert sorted(tmp_path.iterdir()) == sorted([left, living])

        with closing(Scratch()) as mine:
            assert sorted(tmp_path.iterdir()) == sorted([living, mine.path])
            assert (living / "ray" / "log").exists()
        assert list(tmp_path.iterdir()) == [living]


def test_a_folder_that_is_no_leftover_of_ours_stays(tmp_path: Path) -> None:
    """One that is just being made, something else of that name, and a link to a place that only looks like one."""
    (tmp_path / "ostrom-new").mkdir()
    (tmp_path / "ostrom-notes").write_text("mine")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "owner").write_text("somebody")
    (tmp_path / "ostrom-link").symlink_to(elsewhere)
    before = sorted(tmp_path.rglob("*"))

    with closing(Scratch()):
        pass

    assert sorted(tmp_path.rglob("*")) == before
