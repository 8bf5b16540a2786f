"""docs/streaming.md's program, run as it stands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from streaming.queues.sqlite import SqliteQueue
from streaming.scorer import Scorer
from streaming.settings import ScoringSettings
from tests.conftest import ROOT
from tests.streaming.pools import NUM_PARTITIONS, write_settings
from zaphod.registry import Registry
from zaphod.served import ServedModel

(PROGRAM,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/streaming.md").read_text(), re.DOTALL)
EVENT = {"amount": 100.0, "balance": None, "count": 3, "kind": "a"}


def test_the_program_sends_and_reads(registry: Registry, tmp_path: Path) -> None:
    """Its event is scored; run again it sends nothing new and prints the answer."""
    write_settings(tmp_path, registry=registry.uri, model="binary@1", num_scorers=1).rename(
        tmp_path / "configs/streaming.yaml"
    )
    (tmp_path / "event.json").write_text(json.dumps(EVENT))

    def run() -> str:
        command = [sys.executable, "-c", PROGRAM]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run() == ""
    queue = SqliteQueue(tmp_path / "var/stream", num_partitions=NUM_PARTITIONS)
    model = ServedModel.open(registry, "binary@1")
    scorer = Scorer(queue.consumer("me", lease_s=30), model, settings=ScoringSettings(), lease_s=30)
    scorer.assign(range(NUM_PARTITIONS))
    while sum(position.lag for position in queue.positions()):
        scorer.step()
    queue.close()

    identifier, answer = run().split(" ", 1)
    assert identifier == json.loads(answer)["id"] == "order-17"
