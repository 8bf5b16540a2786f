"""Dead letters as a person handles them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
import yaml

from streaming.outcomes import OutcomeConsumer
from streaming.queues.base import Cursor, NewEvent
from streaming.queues.sqlite import SqliteQueue
from streaming.scorer import Scorer
from streaming.settings import ScoringSettings
from tests.streaming.pools import NUM_PARTITIONS, write_settings
from zaphod.monitoring.outcomes import open_outcomes
from zaphod.monitoring.settings import LogSettings
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


def streaming(home: Path, *arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[str]:
    """`python -m streaming …`."""
    command = [sys.executable, "-m", "streaming", *arguments, "--config", "streaming.yaml"]
    return subprocess.run(
        command, cwd=home, input=given.decode(), capture_output=True, text=True, timeout=60, env={"COLUMNS": "200"}
    )


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


def test_a_letter_does_nothing_to_the_terminal(home: Path, registry: Registry) -> None:
    """Its id is the producer's to choose: one that would end the list or steer the terminal is shown as text."""
    queue = SqliteQueue(home / "var/stream", num_partitions=NUM_PARTITIONS)
    queue.produce([NewEvent(value=b"{", id="[/nope]\x1b[2J\x9b", created=time.time())])
    queue.close()
    score(home, registry)

    listed = dlq(home, "list")
    name = next(line.split()[1] for line in listed.stdout.splitlines() if "nope" in line)
    shown = dlq(home, "show", name)

    assert r"[/nope]\x1b[2J\x9b" in listed.stdout
    assert json.loads(shown.stderr)["id"] == "[/nope]\x1b[2J\x9b"
    assert not {"\x1b", "\x9b"} & set(listed.stdout + shown.stderr)


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


@pytest.fixture
def outcomes(home: Path) -> SqliteQueue:
    """A topic of outcomes, in the settings too, beside the stream."""
    path = home / "streaming.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["outcomes"] = {"path": "var/outcomes", "partitions": 1}
    settings["monitoring"] = {"uri": "var/monitoring"}
    path.write_text(yaml.safe_dump(settings))
    return SqliteQueue(home / "var/outcomes", num_partitions=1)


def test_the_topic_of_outcomes_has_the_same_commands(home: Path, outcomes: SqliteQueue) -> None:
    """Sent, looked at, set aside, sent again and dropped by hand, the stream of events untouched."""
    lines = b'{"prediction_id": "p-1", "value": 1}\n{"prediction_id": "p-2"}\n'
    assert "sent 2" in streaming(home, "produce", "--topic", "outcomes", given=lines).stderr
    log = open_outcomes(LogSettings(uri=str(home / "var/monitoring")))
    assert log is not None
    consumer = OutcomeConsumer(outcomes, log, lease_s=30)
    consumer.step()
    (entry,) = outcomes.read_dead_letters({0: Cursor()}, max_letters=10)
    name = f"0/0/{entry.cursor.offset}"

    assert name in dlq(home, "list", "--topic", "outcomes").stdout
    assert "bad" not in dlq(home, "list", "--topic", "outcomes").stdout
    assert dlq(home, "show", name, "--topic", "outcomes").stdout == '{"prediction_id": "p-2"}'
    assert "sent 1 letters" in dlq(home, "replay", name, "--topic", "outcomes").stdout
    consumer.step()
    assert "partition 0 goes on at offset 2" in streaming(home, "replay", "--from", "2", "--topic", "outcomes").stdout
    shown = streaming(home, "lag", "--topic", "outcomes").stdout
    assert [word for word in shown.split() if word.isdigit()][:4] == ["0", "2", "3", "1"]
    assert "dropped 1 letters" in dlq(home, "drop", "--all", "--topic", "outcomes").stdout
    assert "no keep_s is set" in streaming(home, "trim", "--topic", "outcomes").stderr
    assert "removed 0" in streaming(home, "trim", "--older-than", "60", "--topic", "outcomes").stdout
    log.close()
    assert "bad" in dlq(home, "list").stdout


def test_a_topic_that_is_not_set_is_said_so(home: Path) -> None:
    """One sentence, and so for a table, which has a command of its own."""
    assert "none is set" in dlq(home, "list", "--topic", "outcomes").stderr
    assert "none is set" in streaming(home, "lag", "--topic", "outcomes").stderr
    table = streaming(home, "produce", "--topic", "outcomes", "--events", "told.parquet")
    assert "zaphod experiment import" in table.stderr


def test_outcomes_do_not_go_into_the_stream_of_events(home: Path) -> None:
    """A path that was left out is that of the events by default."""
    path = home / "streaming.yaml"
    path.write_text(path.read_text() + "outcomes: {kind: sqlite}\n")

    assert "set outcomes.path" in streaming(home, "lag").stderr


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
