"""Dead letters as a person handles them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from streaming.queues.base import Cursor, NewEvent
from streaming.queues.sqlite import SqliteQueue
from streaming.scorer import Scorer
from streaming.settings import ScoringSettings
from tests.streaming.pools import NUM_PARTITIONS, write_settings
from zaphod.registry import Registry
from zaphod.served import ServedModel

GOOD = {"amount": 100.0, "balance": None, "count": 3, "kind": "a"}
ALL = {partition: Cursor() for partition in range(NUM_PARTITIONS)}


@pytest.fixture
def home(tmp_path: Path, registry: Registry) -> Path:
    """A folder with settings, and two events in the stream: one good, one that is no JSON."""
    write_settings(tmp_path, registry=registry.uri, model="binary@1", num_scorers=1)
    queue = SqliteQueue(tmp_path / "var/stream", num_partitions=NUM_PARTITIONS)
    queue.produce(
        [
            NewEvent(value=msgspec.json.encode(GOOD), id="good", key="k", created=time.time()),
            NewEvent(value=b"{oops", id="bad", key="k", created=time.time()),
        ]
    )
    queue.close()
    score(tmp_path, registry)
    return tmp_path


def score(home: Path, registry: Registry) -> None:
    """What waits, in this process."""
    queue = SqliteQueue(home / "var/stream", num_partitions=NUM_PARTITIONS)
    model = ServedModel.open(registry, "binary@1")
    scorer = Scorer(queue.consumer("me", lease_s=30), model, settings=ScoringSettings(), lease_s=30)
    scorer.assign(range(NUM_PARTITIONS), steal=range(NUM_PARTITIONS))
    while sum(position.lag for position in queue.positions()):
        scorer.step()
    queue.close()


def dlq(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`zaphod dlq …`."""
    command = [str(Path(sys.executable).parent / "zaphod"), "dlq", *arguments, "--config", "streaming.yaml"]
    return subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=60, env={"COLUMNS": "200"})


def letter_name(home: Path) -> str:
    """What `list` calls the only letter."""
    queue = SqliteQueue(home / "var/stream", num_partitions=NUM_PARTITIONS)
    (entry,) = queue.read_dead_letters(ALL, max_letters=10)
    queue.close()
    return f"{entry.partition}/{entry.cursor.generation}/{entry.cursor.offset}"


def test_list_and_show(home: Path) -> None:
    """The list names letter and cause; `show` gives the original bytes and nothing else on standard output."""
    name = letter_name(home)

    listed, shown = dlq(home, "list"), dlq(home, "show", name)

    assert name in listed.stdout
    assert "unprocessable" in listed.stdout
    assert shown.stdout == "{oops"
    assert json.loads(shown.stderr)["id"] == "bad"


def test_a_replayed_letter_is_scored_again_under_its_old_id(home: Path, registry: Registry) -> None:
    """It leaves the dead letters; what still cannot be scored comes back with the id that it had."""
    assert "sent 1 letters" in dlq(home, "replay", letter_name(home)).stdout
    queue = SqliteQueue(home / "var/stream", num_partitions=NUM_PARTITIONS)
    assert queue.read_dead_letters(ALL, max_letters=10) == []
    assert sum(position.lag for position in queue.positions()) == 1

    score(home, registry)

    (entry,) = queue.read_dead_letters(ALL, max_letters=10)
    assert entry.letter.id.startswith("bad~")
    assert entry.letter.headers == {"zaphod-original-id": "bad"}
    queue.close()


def test_drop_removes_for_good(home: Path) -> None:
    """By name or all of a cause."""
    assert "dropped 0" in dlq(home, "drop", "--all", "--cause", "failed").stdout
    assert "dropped 1" in dlq(home, "drop", "--all").stdout

    assert "bad" not in dlq(home, "list").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("show", "9/9/9"), "Cannot find"),
        (("show", "../../etc"), "Expected partition/generation/offset"),
        (("drop",), "got neither or both"),
    ],
)
def test_a_wrong_name_is_one_sentence(home: Path, arguments: tuple[str, ...], says: str) -> None:
    """Nothing is touched."""
    done = dlq(home, *arguments)

    assert done.returncode == 1
    assert says in done.stderr
    assert letter_name(home)
