"""Where validations are kept, and which of them counts."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from zaphod.errors import ConfigError, ModelLoadError
from zaphod.registry import Registry
from zaphod.validation.store import ValidationStore, check_gate


@pytest.fixture
def registry(tmp_path: Path, validated_registry: Registry) -> Registry:
    """A copy that a test may change; `binary@1` is the champion."""
    shutil.copytree(validated_registry.uri, tmp_path / "registry")
    return Registry.open(str(tmp_path / "registry"))


def record(registry: Registry, version: int, *, passed: bool, champion: int | None = 1) -> bytes:
    """The part of validation.json that a promotion reads."""
    sha256 = ValidationStore.of(registry).bundle_sha256("binary", version)
    subject = {"name": "binary", "version": version, "bundle_sha256": sha256}
    other = None if champion is None else {"name": "binary", "version": champion, "bundle_sha256": "x"}
    verdict = {"passed": passed, "reasons": [] if passed else ["too bad"], "checks": []}
    return msgspec.json.encode({"created": "now", "candidate": subject, "champion": other, "verdict": verdict})


def add(registry: Registry, version: int, json: bytes) -> str:
    """Stores a validation; the path of its validation.json."""
    return ValidationStore.of(registry).add("binary", version, json=json, html=b"<html>", card=b"# card").json


def test_the_newest_validation_counts(registry: Registry) -> None:
    """Earlier ones are kept, whatever the newest says."""
    assert check_gate(registry, "binary", version=2) is None

    paths = [add(registry, 2, record(registry, 2, passed=passed)) for passed in (False, True, False)]

    assert paths == [f"binary/validations/2/{number:04d}.json" for number in (1, 2, 3)]
    verdict = check_gate(registry, "binary", version=2)
    assert verdict is not None
    assert (verdict.passed, verdict.reasons) == (False, ("too bad",))


def test_racing_validations_are_all_kept(registry: Registry) -> None:
    """Each gets a number of its own, and none replaces another."""
    data = record(registry, 2, passed=True)

    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: add(registry, 2, data), range(16)))

    assert len(paths) == 16


def test_a_validation_of_other_bytes_does_not_count(registry: Registry) -> None:
    """What was validated is what is promoted, to the byte."""
    add(registry, 2, record(registry, 1, passed=True))

    assert check_gate(registry, "binary", version=2) is None


@pytest.mark.parametrize(("champion", "passes"), [(1, True), (2, True), (None, True), (3, False)])
def test_a_pass_counts_against_the_champion_of_then(registry: Registry, *, champion: int | None, passes: bool) -> None:
    """Compared with the one that serves, or being it, or with none serving; not with a former one."""
    add(registry, 2, record(registry, 2, passed=True, champion=1))
    before = registry.state("binary")
    aliases = {} if champion is None else {"champion": champion}
    registry.append("binary", before=before, aliases=aliases, action="test", why="test")

    verdict = check_gate(registry, "binary", version=2)

    assert verdict is not None
    assert verdict.passed == passes


def test_a_broken_validation_is_named(registry: Registry) -> None:
    """It is neither a pass nor none at all."""
    path = add(registry, 2, b'{"created": "now"')

    with pytest.raises(ModelLoadError, match=path):
        check_gate(registry, "binary", version=2)


def test_a_validation_without_its_json_is_none(registry: Registry) -> None:
    """A writer that died between the report and validation.json left nothing that counts."""
    folder = Path(registry.uri) / "binary/validations/2"
    folder.mkdir(parents=True)
    (folder / "0001.html").write_text("<html>")

    assert check_gate(registry, "binary", version=2) is None
    assert add(registry, 2, record(registry, 2, passed=True)).endswith("0002.json")


def test_a_name_cannot_lead_elsewhere(registry: Registry) -> None:
    """As everywhere in the registry."""
    with pytest.raises(ConfigError):
        ValidationStore.of(registry).newest("../binary", 2)
