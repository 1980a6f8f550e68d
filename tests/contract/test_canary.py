"""A key goes from the environment to the endpoint, and nowhere else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CANARY = "sk-CANARY-7f1e0c93d2"
LIMIT_S = 180


@pytest.mark.ray
def test_a_key_is_in_no_file_log_or_table_of_a_sweep_over_ray(tmp_path: Path) -> None:
    """It is handed over backwards, so that the command line of the process is no place where it could be found."""
    script = Path(__file__).with_name("canary.py")
    environment = {**os.environ, "CANARY_KEY": CANARY}

    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "out"), CANARY[::-1]],
        capture_output=True, text=True, timeout=LIMIT_S, env=environment, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["found"] == []
    assert told["finished"] == 8
    assert told["requests"] >= 8, "the key was used"
    assert CANARY not in done.stdout + done.stderr
