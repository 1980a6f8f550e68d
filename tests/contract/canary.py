"""A whole live sweep over Ray with a key that nobody may ever see; run by test_canary.py in a process of its own."""

import json
import shutil
import sys
from pathlib import Path

import anyio

from benchmarks import Experiment
from benchmarks.engine import Sweep
from benchmarks.report import write_report
from benchmarks.rows import write_tables
from benchmarks.tables import cells
from runtime.budget import Budget
from runtime.driver import Runtime
from runtime.models.spec import ModelSpec
from runtime.task import Task
from runtime.testing import HostileEndpoint
from topologies import Single, Star

NAMES = ("fault/ok", "fault/401", "fault/html", "fault/drop")


def hits(folder: Path, key: bytes) -> list[str]:
    """Files below a folder that hold the key; sockets and pipes hold nothing."""
    return [str(f) for f in folder.rglob("*") if f.is_file() and key in f.read_bytes()]


async def main(out: Path, key: bytes) -> None:
    async with HostileEndpoint() as endpoint:
        models = {
            name.replace("fault/", ""): ModelSpec(
                endpoint=endpoint.base_url,
                model=name,
                key_env="CANARY_KEY",
                input_usd=1,
                output_usd=2,
                limit_field="max_tokens",
                window_tokens=8_192,
                timeout_s=2,
            )
            for name in NAMES
        }
        experiment = Experiment(
            "canary",
            tasks=[Task("How many?", answer="42")],
            topologies=[Single(), Star(2)],
            models=list(models),
            budgets=[Budget(usd=0.2, tokens=60_000, seconds=6)],
            cap=Budget(usd=20),
            catalog=models,
        )
        async with Runtime("local", models=models, hosts=2, out=out) as runtime:
            work = Sweep(experiment, experiment.plan(runtime), runtime)
            await work.begin()
            async for _, _ in work.run():
                pass
            trials, manifest = work.trials(), work.manifest("canary")
            table = cells(trials)
            write_tables(out, trials, work.calls(), table)
            (out / "manifest.json").write_text(json.dumps(dict(manifest)))
            write_report(out / "report.html", trials, manifest, {})
            import ray  # not before the runtime has set its environment, which Ray reads when it is imported

            session = Path(ray.get_runtime_context().worker.node.get_session_dir_path())
            found = hits(session, key) + hits(session.parent.parent, key)
            requests = endpoint.total().requests
        (out / "control").write_bytes(key)
        assert hits(out, key), "what is there would be found"
        (out / "control").unlink()
        found += hits(out, key)
    print(json.dumps({"found": found, "requests": requests, "finished": len(work.results)}))
    shutil.rmtree(out)


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), sys.argv[2].encode()[::-1])
