"""A few rounds of what `make chaos` does two hundred times: kill -9 of a process that does nothing but commit."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

KILLS = Path(__file__).parents[2] / "chaos" / "test_store_kills.py"


def test_five_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    spec = spec_from_file_location("store_kills", KILLS)
    assert spec is not None
    assert spec.loader is not None
    chaos = module_from_spec(spec)
    spec.loader.exec_module(chaos)

    assert chaos.rounds_of_kills(tmp_path / "s.db", 5, seed=5)["kills"] == 5
