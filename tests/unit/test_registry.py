"""The registry: immutable versions, aliases that move with their journal entry, and refusals."""

from __future__ import annotations

import datetime
import subprocess
import sys
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from tests.conftest import ROOT
from zaphod.bundle import EXAMPLE, MANIFEST, SCHEMA, SKOPS, Manifest, seal
from zaphod.commands.versions import garbage, previous_version
from zaphod.errors import (
    ConfigError,
    ModelLoadError,
    ModelNotFoundError,
    RegistryConflictError,
    StorageUnavailableError,
    ZaphodError,
)
from zaphod.experiment import lifecycle
from zaphod.experiment.plan import MetricPlan, Plan
from zaphod.registry import Change, Reference, Registry
from zaphod.schema import DType, Field, Output, Schema, Task
from zaphod.storage import LocalStorage

FILES = seal(
    Manifest(name="m", created="2026-01-01T00:00:00+00:00", engine="sklearn", files={}, libraries={}),
    {
        SCHEMA: Schema(fields=(Field(name="x", dtype=DType.FLOAT64),), output=Output(task=Task.REGRESSION)).to_json(),
        SKOPS: b"model",
        EXAMPLE: b'{"x": 1.0}',
    },
)


@pytest.fixture(params=["folder", "s3", "gs"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    """An empty registry of each kind."""
    if request.param == "folder":
        return Registry.open(str(tmp_path))
    return Registry.open(f"{request.getfixturevalue(request.param)}/{uuid.uuid4().hex}")


@pytest.fixture
def folder(tmp_path: Path) -> Registry:
    """An empty registry in a folder that the test may damage."""
    return Registry.open(str(tmp_path))


def test_versions_count_up_and_load_verified(registry: Registry) -> None:
    """Each publish is the next version, and loads with the bytes it was given."""
    assert [registry.publish("m", FILES), registry.publish("m", FILES)] == [1, 2]
    assert registry.versions("m") == [1, 2]
    assert registry.models() == ["m"]

    assert registry.load("m", 2).files[SKOPS] == b"model"


def test_racing_publishers_get_different_versions(folder: Registry) -> None:
    """No two publishers share a number, and no version is half of each."""
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda _: folder.publish("m", FILES), range(24)))

    assert sorted(versions) == list(range(1, 25))


def test_an_unfinished_version_is_not_there(folder: Registry, tmp_path: Path) -> None:
    """A publisher that died leaves a number unused and nothing that loads."""
    folder.publish("m", FILES)
    (tmp_path / "m/2").mkdir()
    (tmp_path / "m/2/claim").touch()

    assert folder.versions("m") == [1]
    assert folder.publish("m", FILES) == 3
    with pytest.raises(ModelNotFoundError):
        folder.load("m", 2)


def test_of_two_racing_writers_one_is_told(registry: Registry) -> None:
    """A change based on an old state is refused, and the winner's stands."""
    registry.publish("m", FILES)
    before = registry.state("m")
    winner = registry.set_alias("m", alias="champion", version=1, action="promote", why="first")

    with pytest.raises(RegistryConflictError):
        registry.append("m", before=before, aliases={"champion": 9}, action="promote", why="second")

    assert registry.state("m") == winner
    assert registry.journal("m") == [winner]


def test_many_racing_writers_lose_no_change(folder: Registry) -> None:
    """Every writer that was not told to retry has its entry in the journal."""
    for _ in range(3):
        folder.publish("m", FILES)

    def move(version: int) -> bool:
        try:
            folder.set_alias("m", alias="champion", version=version, action="promote", why="race")
        except RegistryConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(move, [1, 2, 3] * 8))

    assert sum(won) == len(folder.journal("m")) == folder.state("m").generation


RACE = """
import sys, time
from pathlib import Path
from zaphod.errors import RegistryConflictError
from zaphod.registry import Registry

registry = Registry.open(sys.argv[1])
print("ready", flush=True)
while not Path(sys.argv[3]).exists():
    time.sleep(0.001)
for i in range(40):
    try:
        registry.set_alias("m", alias="champion", version=i % 3 + 1, action="promote", why=sys.argv[2])
        print("won")
    except RegistryConflictError as error:
        assert "retry" in error.message
        print("told")
"""


def test_racing_processes_lose_no_change(folder: Registry, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each of 120 promotions by three processes is in the journal or was told to retry, and both happen."""
    for _ in range(3):
        folder.publish("m", FILES)
    shot = tmp_path_factory.mktemp("race") / "shot"

    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, folder.uri, str(i), str(shot)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for i in range(3)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    shot.touch()  # one for all: whoever is told later than the others may find them done
    said = [racer.communicate(timeout=60)[0].split() for racer in racers]

    assert [racer.returncode for racer in racers] == [0, 0, 0]
    journal = folder.journal("m")
    won = [words.count("won") for words in said]
    assert sum(won) == len(journal) == folder.state("m").generation
    assert [sum(change.why == str(i) for change in journal) for i in range(3)] == won
    assert sum(words.count("told") for words in said) == 120 - sum(won) > 0
    assert [change.generation for change in journal] == list(range(1, sum(won) + 1))


def test_a_change_survives_a_writer_that_died_before_copying(folder: Registry, tmp_path: Path) -> None:
    """The journal is the truth even when aliases.json lags behind it."""
    folder.publish("m", FILES)
    folder.set_alias("m", alias="champion", version=1, action="promote", why="first")
    old = (tmp_path / "m/aliases.json").read_bytes()
    folder.set_alias("m", alias="challenger", version=1, action="promote", why="second")
    (tmp_path / "m/aliases.json").write_bytes(old)

    assert folder.state("m").aliases == {"champion": 1, "challenger": 1}


@pytest.mark.parametrize("problem", [StorageUnavailableError("away"), OSError("disk full")])
def test_a_change_that_cannot_be_copied_is_in_force(
    folder: Registry, tmp_path: Path, problem: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever made it is told so, every reader sees it, and the next change brings the copy up to date."""

    class Away(LocalStorage):
        def replace(self, path: str, data: bytes, *, durable: bool = True) -> None:
            raise problem

    folder.publish("m", FILES)
    folder.set_alias("m", alias="champion", version=1, action="promote", why="test")

    change = Registry(Away(tmp_path)).pin("m", version=1, why="test")

    assert folder.state("m") == folder.journal("m")[-1] == change
    assert "it is in force" in caplog.text
    later = folder.unpin("m", version=1, why="test")
    assert msgspec.json.decode((tmp_path / "m/aliases.json").read_bytes(), type=Change) == later == folder.state("m")


@pytest.mark.parametrize("name", ["../m", "a/b", "", ".", "..", "-x", "a" * 101, "x..y", "né"])
def test_path_tricks_in_names_are_refused(registry: Registry, name: str) -> None:
    """A name can never leave the registry's folder."""
    with pytest.raises(ConfigError):
        registry.publish(name, FILES)
    with pytest.raises(ConfigError):
        registry.load(name, 1)


@pytest.mark.parametrize("file", [SKOPS, SCHEMA, EXAMPLE, MANIFEST])
@pytest.mark.parametrize("damage", ["changed", "truncated", "missing", "link"])
def test_a_damaged_bundle_is_refused(folder: Registry, tmp_path: Path, file: str, damage: str) -> None:
    """A changed byte, a truncated or missing file and a symbolic link are refused with a clear error."""
    folder.publish("m", FILES)
    path = tmp_path / "m/1" / file
    data = path.read_bytes()
    path.unlink()
    match damage:
        case "changed":
            path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        case "truncated":
            path.write_bytes(data[:-1])
        case "link":
            (tmp_path / "elsewhere").write_bytes(data)
            path.symlink_to(tmp_path / "elsewhere")

    if (file, damage) == (MANIFEST, "truncated"):
        # The last byte is a line feed: the document is the same, but its hash is not.
        assert folder.load("m", 1).sha256 != ""
        return
    with pytest.raises(ZaphodError) as caught:
        folder.load("m", 1)

    assert isinstance(caught.value, ModelLoadError | ModelNotFoundError)


def test_aliases_point_only_at_versions(registry: Registry) -> None:
    """An alias of a missing version, and a number as an alias, are refused."""
    registry.publish("m", FILES)

    with pytest.raises(ModelNotFoundError):
        registry.set_alias("m", alias="champion", version=9, action="promote", why="no")
    with pytest.raises(ConfigError):
        registry.set_alias("m", alias="7", version=1, action="promote", why="no")


def test_references() -> None:
    """A name means its champion; a number is a pin."""
    assert Reference.parse("m") == Reference(name="m", alias="champion", version=None)
    assert Reference.parse("m@next") == Reference(name="m", alias="next", version=None)
    assert Reference.parse("m@7") == Reference(name="m", alias=None, version=7)
    with pytest.raises(ConfigError):
        Reference.parse("../m@7")


def test_rollback_goes_back_step_by_step(registry: Registry) -> None:
    """A rollback undoes the last promotion; a second one undoes the one before."""
    for version in (1, 2, 3):
        registry.publish("m", FILES)
        registry.set_alias("m", alias="champion", version=version, action="promote", why="test")

    seen = []
    while (version := previous_version(registry.journal("m"), alias="champion")) is not None:
        registry.set_alias("m", alias="champion", version=version, action="rollback", why="test")
        seen.append(version)

    assert seen == [2, 1]


def test_delete_refuses_what_an_alias_or_a_pin_holds(registry: Registry) -> None:
    """A held version stays; a free one goes for good, its number is not used again, and the journal says so."""
    for _ in range(3):
        registry.publish("m", FILES)
    registry.set_alias("m", alias="champion", version=1, action="promote", why="test")
    registry.pin("m", version=2, why="a customer uses m@2")

    for version in (1, 2):
        with pytest.raises(ConfigError, match="holds it"):
            registry.delete("m", version=version, why="test")
    registry.delete("m", version=3, why="test")
    registry.unpin("m", version=2, why="no longer used")
    registry.delete("m", version=2, why="test")

    assert registry.versions("m") == [1]
    with pytest.raises(ModelNotFoundError):
        registry.load("m", 3)
    assert registry.publish("m", FILES) == 4
    assert [change.action for change in registry.journal("m")] == [
        "promote", "pin 2", "delete 3", "unpin 2", "delete 2",
    ]  # fmt: skip
    assert registry.state("m").aliases == {"champion": 1}


class Meanwhile(LocalStorage):
    """Does something once, right after a version was found to be there."""

    def __init__(self, folder: Path, *, version: int, then: Callable[[], object]) -> None:
        super().__init__(folder)
        self._path = f"m/{version}/{MANIFEST}"
        self._then: list[Callable[[], object]] = [then]

    def exists(self, path: str) -> bool:
        found = super().exists(path)
        if path == self._path and self._then:
            self._then.pop()()
        return found


def set_alias(registry: Registry) -> object:
    """Names version 2."""
    return registry.set_alias("m", alias="champion", version=2, action="promote", why="test")


def pin(registry: Registry) -> object:
    """Keeps version 2."""
    return registry.pin("m", version=2, why="test")


def start(registry: Registry) -> object:
    """Tries version 2."""
    plan = Plan(metrics=(MetricPlan(name="x"),))
    return lifecycle.start(registry, "m", challenger=2, plan=plan, why="test")


@pytest.mark.parametrize("change", [set_alias, pin, start])
def test_a_version_that_is_deleted_meanwhile_is_named_by_nothing(
    folder: Registry, tmp_path: Path, change: Callable[[Registry], object]
) -> None:
    """One who found it and goes on after the deletion is told to look again."""
    for _ in range(3):
        folder.publish("m", FILES)
    folder.set_alias("m", alias="champion", version=1, action="promote", why="test")
    slow = Registry(Meanwhile(tmp_path, version=2, then=lambda: folder.delete("m", version=2, why="gc")))

    with pytest.raises((RegistryConflictError, ModelNotFoundError)):
        change(slow)

    assert folder.versions("m") == [1, 3]
    assert folder.state("m").kept == {1}


@pytest.mark.parametrize("change", [set_alias, pin, start])
def test_a_version_whose_files_are_still_to_go_is_deleted(
    folder: Registry, tmp_path: Path, change: Callable[[Registry], object]
) -> None:
    """From its journal entry on, also when others followed; whoever deletes it again finishes that."""

    class Slow(LocalStorage):
        def delete(self, path: str) -> None:
            raise StorageUnavailableError(f"Cannot delete {path}: away.")

    for _ in range(3):
        folder.publish("m", FILES)
    folder.set_alias("m", alias="champion", version=1, action="promote", why="test")
    with pytest.raises(StorageUnavailableError):
        Registry(Slow(tmp_path)).delete("m", version=2, why="gc")
    folder.pin("m", version=3, why="test")
    assert folder.versions("m") == [1, 2, 3]

    with pytest.raises(ModelNotFoundError, match="deleted"):
        change(folder)
    folder.delete("m", version=2, why="again")

    assert folder.versions("m") == [1, 3]


def test_garbage_is_what_is_old_and_held_by_nobody(folder: Registry) -> None:
    """The newest versions, young ones and held ones stay."""
    for _ in range(5):
        folder.publish("m", FILES)
    folder.set_alias("m", alias="champion", version=2, action="promote", why="test")
    folder.pin("m", version=3, why="test")
    created = datetime.datetime.fromisoformat(folder.describe("m", 1)[0].created)

    assert garbage(folder, "m", keep=1, before=created + datetime.timedelta(days=1)) == [1, 4]
    assert garbage(folder, "m", keep=0, before=created + datetime.timedelta(days=1)) == [1, 4, 5]
    assert garbage(folder, "m", keep=0, before=created) == []


def test_what_a_dead_publisher_left_can_be_removed(folder: Registry, tmp_path: Path) -> None:
    """Once it is old enough; a whole version is never taken for it."""
    folder.publish("m", FILES)
    folder.publish("m", FILES)
    (tmp_path / "m" / "2" / MANIFEST).unlink()
    now = datetime.datetime.now(datetime.UTC)

    assert folder.abandoned("m", before=now - datetime.timedelta(hours=1)) == []
    assert folder.abandoned("m", before=now + datetime.timedelta(hours=1)) == [2]
    with pytest.raises(ConfigError):
        folder.remove_abandoned("m", version=1)
    folder.remove_abandoned("m", version=2)

    assert folder.abandoned("m", before=now + datetime.timedelta(hours=1)) == []
    assert folder.publish("m", FILES) == 3
