"""The registry: immutable versions, aliases that move with their journal entry, and refusals."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from zaphod.bundle import EXAMPLE, MANIFEST, SCHEMA, SKOPS, Manifest, seal
from zaphod.cli import previous_version
from zaphod.errors import ConfigError, ModelLoadError, ModelNotFoundError, RegistryConflictError, ZaphodError
from zaphod.registry import Reference, Registry
from zaphod.schema import DType, Field, Output, Schema, Task

FILES = seal(
    Manifest(name="m", created="2026-01-01T00:00:00+00:00", engine="sklearn", files={}, libraries={}),
    {
        SCHEMA: Schema(fields=(Field(name="x", dtype=DType.FLOAT64),), output=Output(task=Task.REGRESSION)).to_json(),
        SKOPS: b"model",
        EXAMPLE: b'{"x": 1.0}',
    },
)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """An empty registry."""
    return Registry.open(str(tmp_path))


def test_versions_count_up_and_load_verified(registry: Registry) -> None:
    """Each publish is the next version, and loads with the bytes it was given."""
    assert [registry.publish("m", FILES), registry.publish("m", FILES)] == [1, 2]
    assert registry.versions("m") == [1, 2]
    assert registry.models() == ["m"]

    assert registry.load("m", 2).files[SKOPS] == b"model"


def test_racing_publishers_get_different_versions(registry: Registry) -> None:
    """No two publishers share a number, and no version is half of each."""
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda _: registry.publish("m", FILES), range(24)))

    assert sorted(versions) == list(range(1, 25))


def test_an_unfinished_version_is_not_there(registry: Registry, tmp_path: Path) -> None:
    """A publisher that died leaves a number unused and nothing that loads."""
    registry.publish("m", FILES)
    (tmp_path / "m/2").mkdir()
    (tmp_path / "m/2/claim").touch()

    assert registry.versions("m") == [1]
    assert registry.publish("m", FILES) == 3
    with pytest.raises(ModelNotFoundError):
        registry.load("m", 2)


def test_of_two_racing_writers_one_is_told(registry: Registry) -> None:
    """An alias change based on an old state is refused, and the winner's stands."""
    for _ in range(3):
        registry.publish("m", FILES)

    def move(version: int) -> bool:
        try:
            registry.set_alias("m", alias="champion", version=version, action="promote", why="race")
        except RegistryConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(move, [1, 2, 3] * 8))

    assert sum(won) == len(registry.journal("m")) == registry.state("m").generation


def test_a_change_survives_a_writer_that_died_before_copying(registry: Registry, tmp_path: Path) -> None:
    """The journal is the truth even when aliases.json lags behind it."""
    registry.publish("m", FILES)
    registry.set_alias("m", alias="champion", version=1, action="promote", why="first")
    old = (tmp_path / "m/aliases.json").read_bytes()
    registry.set_alias("m", alias="challenger", version=1, action="promote", why="second")
    (tmp_path / "m/aliases.json").write_bytes(old)

    assert registry.state("m").aliases == {"champion": 1, "challenger": 1}


@pytest.mark.parametrize("name", ["../m", "a/b", "", ".", "..", "-x", "a" * 101, "x..y", "né"])
def test_path_tricks_in_names_are_refused(registry: Registry, name: str) -> None:
    """A name can never leave the registry's folder."""
    with pytest.raises(ConfigError):
        registry.publish(name, FILES)
    with pytest.raises(ConfigError):
        registry.load(name, 1)


@pytest.mark.parametrize("file", [SKOPS, SCHEMA, EXAMPLE, MANIFEST])
@pytest.mark.parametrize("damage", ["changed", "truncated", "missing", "link"])
def test_a_damaged_bundle_is_refused(registry: Registry, tmp_path: Path, file: str, damage: str) -> None:
    """A changed byte, a truncated or missing file and a symbolic link are refused with a clear error."""
    registry.publish("m", FILES)
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
        assert registry.load("m", 1).sha256 != ""
        return
    with pytest.raises(ZaphodError) as caught:
        registry.load("m", 1)

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
