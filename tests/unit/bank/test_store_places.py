"""Proves where a store may lie: what is no store is refused and left alone, and a refusal stands in nobody's way."""

import os
from pathlib import Path

import pytest

from runtime.bank.store import Note, Store
from runtime.errors import StoreError


def fill(path: Path) -> Store:
    store = Store(path)
    store.commit([Note("n", b"1")])
    return store


def test_what_is_no_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s.db").write_bytes(b"minutes of the meeting\n" * 50)
    before = (tmp_path / "s.db").read_bytes()
    with pytest.raises(StoreError, match="this is not a store"):
        Store(tmp_path / "s.db")
    assert (tmp_path / "s.db").read_bytes() == before


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.db").mkdir()
    with pytest.raises(StoreError, match="this is a folder"):
        Store(tmp_path / "s.db")


def test_a_missing_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"the folder {tmp_path}/nowhere does not exist"):
        Store(tmp_path / "nowhere" / "s.db")


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be opened for writing: Not a directory"):
        Store(tmp_path / "file" / "s.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_file_that_may_only_be_read_is_refused_when_opening(tmp_path: Path) -> None:
    fill(tmp_path / "s.db").close()
    (tmp_path / "s.db").chmod(0o444)
    with pytest.raises(StoreError, match="cannot be written"):
        Store(tmp_path / "s.db")


def test_a_refused_opening_lets_the_next_one_in(tmp_path: Path) -> None:
    (tmp_path / "s.db").write_bytes(b"no store" * 200)
    with pytest.raises(StoreError):
        Store(tmp_path / "s.db")
    (tmp_path / "s.db").unlink()
    with fill(tmp_path / "s.db") as store:
        assert store.note("n") == b"1"


def test_a_path_with_odd_characters_names_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "a b?mode=memory#%41.db"
    fill(path).close()
    assert path.stat().st_size > 0
    with Store(path) as store:
        assert store.note("n") == b"1"
