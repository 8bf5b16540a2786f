"""What an arm serves while the registry changes under it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
import skops.io
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import Ridge
from sklearn.preprocessing import FunctionTransformer

from tests import models
from tests.conftest import wait_for
from zaphod import served as served_module
from zaphod.bundle import MANIFEST, ONNX, SCHEMA, SKOPS, Manifest, seal
from zaphod.commands.versions import previous_version
from zaphod.errors import ConfigError, ModelLoadError, StorageUnavailableError
from zaphod.packaging import package, sample_columns
from zaphod.registry import CHAMPION, Registry
from zaphod.served import ServedModel, Snapshot

SAMPLE = models.table(50, seed=1)[["amount", "count"]]
SOON_S = 0.01


@pytest.fixture(scope="module")
def three_versions(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Version n answers n; the first is champion. The third is served by scikit-learn."""
    registry = Registry.open(str(tmp_path_factory.mktemp("registry")))
    for constant in (1.0, 2.0):
        estimator = Ridge().fit(SAMPLE, np.full(len(SAMPLE), constant))
        package(estimator, name="m", sample=SAMPLE, registry=registry)
    package(DummyRegressor(strategy="constant", constant=3.0).fit(SAMPLE, [0.0] * 50), name="m", sample=SAMPLE,
            registry=registry)  # fmt: skip
    registry.set_alias("m", alias=CHAMPION, version=1, action="promote", why="test")
    return registry


@pytest.fixture
def registry(three_versions: Registry, tmp_path: Path) -> Registry:
    """A copy that a test may change."""
    shutil.copytree(three_versions.uri, tmp_path / "registry")
    return Registry.open(str(tmp_path / "registry"))


@contextmanager
def serving(registry: Registry, reference: str = "m", *, interval_s: float = SOON_S) -> Iterator[ServedModel]:
    """A model that watches."""
    served = ServedModel.open(registry, reference, interval_s=interval_s)
    try:
        yield served
    finally:
        served.close()


def answer(served: ServedModel) -> float:
    """What one row is answered now."""
    snapshot = served.snapshot()
    values = snapshot.score(sample_columns(snapshot.schema, SAMPLE.head(1))).predictions.values
    assert values is not None
    return float(values[0, 0])


def promote(registry: Registry, version: int, *, action: str = "promote") -> None:
    """Makes it champion, whatever the gate says."""
    registry.set_alias("m", alias=CHAMPION, version=version, action=action, why="test")


def test_a_promote_and_a_rollback_show_within_two_seconds(registry: Registry) -> None:
    """At the pace every arm watches at, from the command's return to the first answer of the other version."""
    with serving(registry, interval_s=served_module.WATCH_INTERVAL_S) as served:
        assert answer(served) == pytest.approx(1)
        promote(registry, 2)
        wait_for(lambda: answer(served) == pytest.approx(2), timeout_s=2.0, what="the promoted version")
        before = previous_version(registry.journal("m"), alias=CHAMPION)
        promote(registry, before, action="rollback")
        wait_for(lambda: answer(served) == pytest.approx(1), timeout_s=2.0, what="the version before")


def test_a_pin_stays(registry: Registry) -> None:
    """A reference by number is not watched at all."""
    with serving(registry, "m@2") as served:
        promote(registry, 3)
        assert served.refresh() is False
        assert answer(served) == pytest.approx(2)


def test_the_new_version_has_predicted_before_it_serves(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it loads and warms up, the old one answers; then one reference is swapped."""
    seen: list[tuple[int, float]] = []
    warm_up = Snapshot.check

    def check(snapshot: Snapshot) -> None:
        seen.append((snapshot.bundle.version, answer(served)))
        warm_up(snapshot)

    with serving(registry) as served:
        monkeypatch.setattr(Snapshot, "check", check)
        promote(registry, 2)
        wait_for(lambda: answer(served) == pytest.approx(2), what="the swap")

    assert [(version, round(value)) for version, value in seen] == [(2, 1)]


def test_whatever_is_wrong_with_a_version_the_next_is_followed(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what nobody thought of."""
    warm_up = Snapshot.check
    tried: list[int] = []

    def check(snapshot: Snapshot) -> None:
        if not tried:
            tried.append(snapshot.bundle.version)
            raise ValueError("nobody thought of it")
        warm_up(snapshot)

    with serving(registry) as served:
        monkeypatch.setattr(Snapshot, "check", check)
        promote(registry, 2)
        wait_for(lambda: answer(served) == pytest.approx(2), what="the swap")

    assert tried == [2]


def damage(registry: Registry, version: int, how: str) -> None:
    """Harms a bundle as a bad disk, an accident or an attacker would."""
    folder = Path(registry.uri) / "m" / str(version)
    model = folder / (ONNX if (folder / ONNX).exists() else SKOPS)
    data = model.read_bytes()
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    files = {name: (folder / name).read_bytes() for name in manifest.files}
    match how:
        case "a changed byte":
            model.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
        case "a truncated file":
            model.write_bytes(data[: len(data) // 2])
        case "an emptied manifest":
            (folder / MANIFEST).write_bytes(b"")
        case "a symbolic link":
            shutil.copy(model, folder.parent / "elsewhere")
            model.unlink()
            model.symlink_to(folder.parent / "elsewhere")
        case "a path in a name":
            bad = msgspec.structs.replace(manifest, files={**manifest.files, "../../secret": "0" * 64})
            (folder / MANIFEST).write_bytes(msgspec.json.encode(bad))
        case "another model":
            (folder / MANIFEST).write_bytes(seal(msgspec.structs.replace(manifest, name="other"), files)[MANIFEST])
        case "another scikit-learn":
            libraries = {**manifest.libraries, "scikit-learn": "1.2.0"}
            sealed = seal(msgspec.structs.replace(manifest, engine="sklearn", libraries=libraries), files)
            (folder / MANIFEST).write_bytes(sealed[MANIFEST])
        case "an untrusted type":
            files[SKOPS] = skops.io.dumps(FunctionTransformer(damage))
            (folder / SKOPS).write_bytes(files[SKOPS])
            sealed = seal(msgspec.structs.replace(manifest, engine="sklearn"), files)
            (folder / MANIFEST).write_bytes(sealed[MANIFEST])
        case "another schema":
            files[SCHEMA] = files[SCHEMA].replace(b'"amount"', b'"income"')
            files[SCHEMA] = files[SCHEMA].replace(b'"float64"', b'"string"')
            (folder / SCHEMA).write_bytes(files[SCHEMA])
            (folder / MANIFEST).write_bytes(seal(manifest, files)[MANIFEST])


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    "how",
    [
        "a changed byte", "a truncated file", "an emptied manifest", "a symbolic link",
        "a path in a name", "another model", "another scikit-learn", "an untrusted type", "another schema",
    ],
)  # fmt: skip
def test_a_bundle_that_must_not_serve_does_not(
    registry: Registry, caplog: pytest.LogCaptureFixture, version: int, how: str
) -> None:
    """It is refused with a clear error, the serving version answers on, and the next good one is followed."""
    damage(registry, version, how)
    with serving(registry) as served, caplog.at_level(logging.ERROR):
        promote(registry, version)
        wait_for(lambda: "cannot follow the registry" in caplog.text, what="the refusal")
        assert answer(served) == pytest.approx(1)
        (record,) = [record for record in caplog.records if record.exc_info]
        assert isinstance(record.exc_info[1], ModelLoadError | ConfigError)
        promote(registry, 5 - version)
        wait_for(lambda: answer(served) == pytest.approx(5 - version), what="the good version")

    with pytest.raises((ModelLoadError, ConfigError)):
        ServedModel.open(registry, f"m@{version}")


def test_a_version_folder_that_is_a_link_cannot_be_promoted(registry: Registry) -> None:
    """It may lead out of the registry; what serves answers on."""
    folder = Path(registry.uri) / "m/2"
    with serving(registry) as served:
        folder.rename(folder.parent.parent / "elsewhere")
        folder.symlink_to(folder.parent.parent / "elsewhere")
        with pytest.raises(ConfigError, match="symbolic link"):
            promote(registry, 2)
        assert answer(served) == pytest.approx(1)


def test_a_restored_bundle_is_tried_again(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What was refused serves once it is whole, without another promotion."""
    monkeypatch.setattr(served_module, "_REFUSED_S", 0.05)
    path = Path(registry.uri) / "m/2" / ONNX
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with serving(registry) as served:
        promote(registry, 2)
        wait_for(lambda: "cannot follow the registry" in caplog.text, what="the refusal")
        assert answer(served) == pytest.approx(1)
        path.write_bytes(whole)
        wait_for(lambda: answer(served) == pytest.approx(2), what="the restored version")


def test_storage_that_is_away_for_a_moment_is_waited_for(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load that failed for a reason that passes is not held against the version."""
    load, failures = Registry.load, 3

    def flaky(self: Registry, name: str, version: int) -> object:
        nonlocal failures
        if failures:
            failures -= 1
            raise StorageUnavailableError("Cannot reach the registry: test")
        return load(self, name, version)

    with serving(registry) as served:
        monkeypatch.setattr(Registry, "load", flaky)
        promote(registry, 2)
        wait_for(lambda: answer(served) == pytest.approx(2), what="the version")

    assert failures == 0
