"""Packaging from files, and refusing what must not be read."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import joblib
import msgspec
import numpy as np
import onnx
import pandas as pd
import pytest
import skl2onnx
import skops.io
from onnx import TensorProto, helper
from scipy.sparse import csr_matrix
from sklearn.datasets import load_iris, make_regression
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from tests.cli import Zaphod
from zaphod.bundle import Manifest
from zaphod.columns import from_table
from zaphod.errors import ModelLoadError, PackagingError, PredictionError
from zaphod.inference import infer_fields
from zaphod.packaging import package, package_onnx, sample_columns
from zaphod.registry import Registry
from zaphod.schema import Output, Schema, Task
from zaphod.sources import load_source


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """An empty registry."""
    return Registry.open(str(tmp_path / "registry"))


@pytest.fixture(scope="module")
def iris() -> tuple[pd.DataFrame, pd.Series]:
    """Four numbers and three species by name."""
    data = load_iris(as_frame=True)
    columns = data.data.rename(columns=lambda name: name.replace(" (cm)", "").replace(" ", "_"))
    return columns, data.target.map(dict(enumerate(data.target_names.tolist())))


class Harmful:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("suffix", ["joblib", "pkl", "pickle"])
def test_a_pickle_is_read_only_when_it_is_trusted(tmp_path: Path, suffix: str) -> None:
    """Without the flag not a byte of it is run, and the message says why."""
    trace = tmp_path / "trace"
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(pickle.dumps(Harmful(trace)))

    with pytest.raises(PackagingError, match="runs whatever code its author put into it"):
        load_source(str(path))

    assert not trace.exists()
    with pytest.raises(PackagingError, match="Expected a scikit-learn estimator, got NoneType"):
        load_source(str(path), trust_pickle=True)
    assert trace.exists()


def test_a_trusted_pickle_becomes_a_bundle_without_one(
    tmp_path: Path, registry: Registry, iris: tuple[pd.DataFrame, pd.Series]
) -> None:
    """What is stored is skops and ONNX; the manifest says where it came from."""
    X, y = iris
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(X, y)
    joblib.dump(model, tmp_path / "iris.joblib")
    source = load_source(str(tmp_path / "iris.joblib"), trust_pickle=True)

    made = package(source.estimator, name="iris", sample=X, registry=registry, origin=source.origin)

    bundle = registry.load("iris", made.version)
    assert bundle.manifest.origin.startswith("iris.joblib (sha256 ")
    assert set(bundle.files) >= {"model.skops", "model.onnx", "schema.json", "parity.json", "example.json"}
    predictions = bundle.load_predictor().predict(sample_columns(bundle.schema, X))
    assert predictions.labels is not None
    assert predictions.labels.tolist() == model.predict(X).tolist()


def test_an_estimator_of_another_scikit_learn_is_refused(tmp_path: Path) -> None:
    """Its predictions might differ: it has to be fitted again."""
    model = LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])
    state = model.__getstate__()
    model.__class__.__getstate__ = lambda self: {**state, "_sklearn_version": "1.2.0"}  # type: ignore[method-assign]
    try:
        joblib.dump(model, tmp_path / "old.joblib")
    finally:
        del model.__class__.__getstate__

    with pytest.raises(PackagingError, match=r"fitted with scikit-learn 1\.2\.0"):
        load_source(str(tmp_path / "old.joblib"), trust_pickle=True)


@pytest.mark.parametrize(
    ("name", "says"),
    [("model.txt", "Expected a .skops"), ("missing.skops", "No such file"), ("../nowhere.onnx", "No such file")],
)
def test_a_source_that_is_none(tmp_path: Path, name: str, says: str) -> None:
    """What was expected is said."""
    with pytest.raises(PackagingError, match=says):
        load_source(str(tmp_path / name))


def test_mlflow_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""
    monkeypatch.setitem(sys.modules, "mlflow.sklearn", None)

    with pytest.raises(PackagingError, match=r"pip install -e '.\[mlflow\]'"):
        load_source("models:/churn@champion", trust_pickle=True)


def shout(X: object) -> object:
    """A function that only this module knows."""
    return X


def test_a_type_outside_the_allow_list_is_refused_by_name(
    tmp_path: Path, registry: Registry, iris: tuple[pd.DataFrame, pd.Series]
) -> None:
    """In a file as in memory; our list counts, not one inside the file."""
    X, y = iris
    model = make_pipeline(FunctionTransformer(shout), LogisticRegression(max_iter=500)).fit(X, y)
    (tmp_path / "model.skops").write_bytes(skops.io.dumps(model))

    with pytest.raises(ModelLoadError, match="shout"):
        load_source(str(tmp_path / "model.skops"))
    with pytest.raises(ModelLoadError, match="shout"):
        package(model, name="m", sample=X, registry=registry)

    assert registry.models() == []


@pytest.mark.parametrize("damage", ["empty", "truncated", "noise"])
def test_a_broken_skops_file_is_one_clear_error(tmp_path: Path, damage: str) -> None:
    """No trace of the library's own errors."""
    whole = skops.io.dumps(LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0]))
    data = {"empty": b"", "truncated": whole[: len(whole) // 2], "noise": b"\x00\xff" * 500}[damage]
    (tmp_path / "model.skops").write_bytes(data)

    with pytest.raises(ModelLoadError, match="broken"):
        load_source(str(tmp_path / "model.skops"))


def linear_onnx(*, named: bool) -> bytes:
    """2 a + 3 b in float, one tensor or two columns."""
    weights = helper.make_tensor("w", TensorProto.FLOAT, [2, 1], [2.0, 3.0])
    if named:
        inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1]) for name in ("a", "b")]
        nodes = [
            helper.make_node("Concat", ["a", "b"], ["x"], axis=1),
            helper.make_node("MatMul", ["x", "w"], ["y"]),
        ]
    else:
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])]
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])]
    graph = helper.make_graph(nodes, "linear", inputs, outputs, [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


SAMPLE = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [0.0, 1.0, 2.0]})


@pytest.mark.parametrize("takes", ["columns", "tensor"])
def test_a_ready_onnx_model_is_served_as_it_is(registry: Registry, takes: str) -> None:
    """Whether it takes one tensor or a column a field; the bundle says that nothing was compared."""
    made = package_onnx(linear_onnx(named=takes == "columns"), name="linear", sample=SAMPLE, registry=registry)

    bundle = registry.load("linear", made.version)
    values = bundle.load_predictor().predict(sample_columns(bundle.schema, SAMPLE)).values
    assert values is not None
    np.testing.assert_allclose(values[:, 0], 2 * SAMPLE["a"] + 3 * SAMPLE["b"])
    assert "nothing" in made.reason or "no estimator" in made.reason
    assert bundle.manifest.given


def test_a_ready_onnx_classifier_keeps_its_classes(registry: Registry, iris: tuple[pd.DataFrame, pd.Series]) -> None:
    """As skl2onnx writes it: labels by name and probabilities as maps."""
    from skl2onnx import to_onnx

    X, y = iris
    model = LogisticRegression(max_iter=500).fit(X.to_numpy(), y)
    data = to_onnx(model, X.to_numpy()[:1].astype(np.float32)).SerializeToString()

    made = package_onnx(data, name="iris", sample=X, registry=registry)

    bundle = registry.load("iris", made.version)
    predictions = bundle.load_predictor().predict(sample_columns(bundle.schema, X))
    assert bundle.schema.output.classes == ("setosa", "versicolor", "virginica")
    assert predictions.labels is not None
    assert predictions.probabilities is not None
    assert (predictions.labels == model.predict(X.to_numpy())).mean() > 0.99
    np.testing.assert_allclose(predictions.probabilities, model.predict_proba(X.to_numpy()), atol=1e-4)


def test_an_onnx_model_of_other_fields_is_refused(registry: Registry) -> None:
    """The inputs that do not fit are named."""
    with pytest.raises(PackagingError, match="'c'"):
        package_onnx(linear_onnx(named=True), name="m", sample=SAMPLE.rename(columns={"b": "c"}), registry=registry)
    with pytest.raises(PackagingError, match="3 fields"):
        package_onnx(linear_onnx(named=False), name="m", sample=SAMPLE.assign(c=1.0), registry=registry)


@pytest.mark.parametrize("place", ["initializer", "sparse initializer", "constant", "function"])
def test_an_onnx_model_that_reads_other_files_is_refused(tmp_path: Path, registry: Registry, place: str) -> None:
    """A model must not be able to name a file of the machine that loads it, wherever its tensors stand."""
    model = onnx.load_model_from_string(linear_onnx(named=False))
    secret = tmp_path / "secret"
    secret.write_bytes(b"\x00" * 8)
    weights = TensorProto(name="secret", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value=str(secret))
    constant = onnx.helper.make_node("Constant", [], ["c"], value=weights)
    match place:
        case "initializer":
            model.graph.initializer.append(weights)
        case "sparse initializer":
            model.graph.sparse_initializer.add(values=weights, dims=[2])
        case "constant":
            model.graph.node.append(constant)
        case "function":
            model.functions.add(name="f", domain="d", node=[constant], output=["c"])

    with pytest.raises((PackagingError, ModelLoadError), match="other files"):
        package_onnx(bytes(model.SerializeToString()), name="m", sample=SAMPLE, registry=registry)


def test_broken_onnx_is_one_clear_error(registry: Registry) -> None:
    """Noise and half a file."""
    for data in (b"", b"\x00\xff" * 100, linear_onnx(named=True)[:40]):
        with pytest.raises((PackagingError, ModelLoadError), match=r"broken|Cannot load"):
            package_onnx(data, name="m", sample=SAMPLE, registry=registry)


def test_multi_output_regression_and_outliers(registry: Registry) -> None:
    """Several targets by name, and scores with labels."""
    X, Y = make_regression(n_samples=60, n_features=3, n_targets=2, random_state=0)
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    two = package(LinearRegression().fit(frame, Y), name="two", sample=frame, registry=registry)
    odd = package(
        IsolationForest(n_estimators=5, random_state=0).fit(frame), name="odd", sample=frame, registry=registry
    )

    for made in (two, odd):
        bundle = registry.load(made.name, made.version)
        predictions = bundle.load_predictor().predict(sample_columns(bundle.schema, frame))
        assert (predictions.values is not None) == (made is two)
        assert (predictions.scores is not None) == (made is odd)
    assert registry.load("two", 1).schema.output.targets == ("target_0", "target_1")


def test_a_classifier_of_several_targets(registry: Registry, zaphod: Zaphod) -> None:
    """Labels and probabilities of each target, whichever engine; the gate refuses it with a reason."""
    X = make_regression(n_samples=80, n_features=3, random_state=0)[0]
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    Y = np.column_stack([np.where(X[:, 0] > 0, "up", "down"), np.digitize(X[:, 1], [-1, 1]).astype(str)]).astype(object)
    engines = {"forest": RandomForestClassifier(3, random_state=0), "neighbours": KNeighborsClassifier(3)}
    for name, model in engines.items():
        made = package(model.fit(frame, Y), name=name, sample=frame, registry=registry)
        bundle = registry.load(name, 1)
        predictions = bundle.load_predictor().predict(sample_columns(bundle.schema, frame))

        assert made.engine == ("onnx" if name == "forest" else "sklearn")
        assert bundle.schema.output.target_classes == (("down", "up"), ("0", "1", "2"))
        assert predictions.labels is not None
        assert predictions.labels.tolist() == model.predict(frame).tolist()
        np.testing.assert_array_equal(predictions.probabilities, np.hstack(model.predict_proba(frame)))
    assert "search tree" in made.reason

    shown = zaphod("inspect", "forest@1", "--registry", registry.uri)
    assert "target_0 (down, up); target_1 (0, 1, 2)" in shown.stdout


def test_a_schema_of_other_targets_than_the_models_is_refused(registry: Registry) -> None:
    """A person who edited it is told, before anything is stored."""
    X = make_regression(n_samples=40, n_features=2, random_state=0)[0]
    frame = pd.DataFrame(X, columns=["a", "b"])
    model = RandomForestClassifier(2, random_state=0).fit(frame, (X > 0).astype(int))
    for classes in (((0, 1),) * 3, ((0, 1), (0, 1, 2))):
        targets = ("p", "q", "r")[: len(classes)]
        output = Output(task=Task.CLASSIFICATION, targets=targets, target_classes=classes, has_probabilities=True)

        with pytest.raises(PredictionError, match="ValueError"):
            package(model, name="m", sample=frame, registry=registry,
                    schema=Schema(fields=infer_fields(frame), output=output))  # fmt: skip
    assert registry.versions("m") == []


def test_labels_as_flags_have_the_chance_of_each(registry: Registry) -> None:
    """Where scikit-learn gives one probability a label, both classes have theirs; sparse labels are read as well."""
    X = make_regression(n_samples=80, n_features=3, random_state=0)[0]
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    flags = (X[:, :2] > 0).astype(int)
    dense, sparse = (OneVsRestClassifier(LogisticRegression()).fit(frame, y) for y in (flags, csr_matrix(flags)))
    for name, model in (("dense", dense), ("sparse", sparse)):
        package(model, name=name, sample=frame, registry=registry)
        bundle = registry.load(name, 1)
        for predictor in (bundle.load_predictor(), bundle.load_reference()):
            predictions = predictor.predict(sample_columns(bundle.schema, frame))

            assert bundle.schema.output.target_classes == ((0, 1), (0, 1))
            assert predictions.labels is not None
            assert predictions.labels.tolist() == dense.predict(frame).tolist()
            assert predictions.probabilities is not None
            np.testing.assert_allclose(predictions.probabilities[:, 1::2], dense.predict_proba(frame), rtol=1e-12)
            np.testing.assert_allclose(predictions.probabilities[:, ::2] + predictions.probabilities[:, 1::2], 1.0)


def test_one_target_given_as_a_table_is_one_target(registry: Registry) -> None:
    """A model of several that was fitted on one gives plain labels."""
    X = make_regression(n_samples=60, n_features=2, random_state=0)[0]
    frame = pd.DataFrame(X, columns=["a", "b"])
    model = MultiOutputClassifier(LogisticRegression()).fit(frame, (X[:, :1] > 0).astype(int))

    made = package(model, name="one", sample=frame, registry=registry)

    bundle = registry.load("one", 1)
    assert (made.engine, bundle.schema.output.classes) == ("onnx", (0, 1))
    for predictor in (bundle.load_predictor(), bundle.load_reference()):
        predictions = predictor.predict(sample_columns(bundle.schema, frame))
        assert predictions.labels is not None
        assert predictions.labels.shape == (60,)
        np.testing.assert_allclose(predictions.probabilities, model.predict_proba(frame)[0], rtol=1e-12)


def test_a_given_model_of_several_targets(registry: Registry) -> None:
    """A ready ONNX model of several targets is served by a schema that names their classes."""
    X = make_regression(n_samples=60, n_features=2, random_state=0)[0].astype(np.float32)
    frame = pd.DataFrame(X, columns=["a", "b"])
    Y = np.column_stack([X[:, 0] > 0, X[:, 1] > 0.5, X[:, 1] > X[:, 0]]).astype(int)
    model = RandomForestClassifier(3, max_depth=3, random_state=0).fit(X, Y)
    given = skl2onnx.to_onnx(model, X[:1], options={"zipmap": False}).SerializeToString()
    output = Output(
        task=Task.CLASSIFICATION, targets=("p", "q", "r"), target_classes=((0, 1),) * 3, has_probabilities=True
    )

    with pytest.raises(PackagingError, match="Cannot tell the classes"):
        package_onnx(given, name="given", sample=frame, registry=registry)
    package_onnx(
        given, name="given", sample=frame, registry=registry, schema=Schema(fields=infer_fields(frame), output=output)
    )

    bundle = registry.load("given", 1)
    predictions = bundle.load_predictor().predict(sample_columns(bundle.schema, frame))
    assert predictions.labels is not None
    assert predictions.labels.tolist() == model.predict(X).tolist()
    np.testing.assert_allclose(predictions.probabilities, np.hstack(model.predict_proba(X)), atol=1e-6)


def test_the_command_from_a_file_to_a_champion_and_back(
    tmp_path: Path, zaphod: Zaphod, iris: tuple[pd.DataFrame, pd.Series]
) -> None:
    """schema, an edit, package, inspect, promote, rollback, models and journal, as a person types them."""
    X, y = iris
    (tmp_path / "iris.skops").write_bytes(skops.io.dumps(LogisticRegression(max_iter=500).fit(X, y)))
    X.assign(species=y).to_csv(tmp_path / "iris.csv", index=False)
    data = ("--data", "iris.csv", "--target", "species")

    assert zaphod("schema", "iris.skops", *data, cwd=tmp_path).returncode == 0
    schema = msgspec.json.decode((tmp_path / "schema.json").read_bytes())
    schema["fields"][0]["description"] = "of the sepal, in cm"
    (tmp_path / "schema.json").write_bytes(msgspec.json.encode(schema))
    for _ in range(2):
        packaged = zaphod("package", "iris.skops", "--name", "iris", "--schema", "schema.json", *data, cwd=tmp_path)
        assert packaged.returncode == 0, packaged.stderr
    assert "iris@2: engine onnx" in packaged.stdout
    shown = zaphod("inspect", "iris@1", cwd=tmp_path).stdout
    assert "of the sepal" in shown
    assert "iris.skops (sha256" in shown
    unproved = zaphod("promote", "iris@1", "--why", "test", cwd=tmp_path)
    assert unproved.returncode == 1
    assert "never validated" in unproved.stderr
    first = zaphod("promote", "iris@1", "--why", "test", "--override", "no holdout yet", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    validate = ("validate", "iris@2", "--data", "iris.csv", "--target", "species")
    assert zaphod(*validate, cwd=tmp_path).returncode == 2
    failed = zaphod("promote", "iris@2", "--why", "test", cwd=tmp_path)
    assert "did not pass" in failed.stderr
    (tmp_path / "validation.yaml").write_text("min_rows: 100\n")
    validated = zaphod(*validate, "--config", "validation.yaml", cwd=tmp_path)
    assert validated.returncode == 0, validated.stdout + validated.stderr
    assert zaphod("promote", "iris@2", "--why", "passed", cwd=tmp_path).returncode == 0
    assert "champion is version 1" in zaphod("rollback", "iris", "--why", "worse", cwd=tmp_path).stdout
    assert zaphod("delete", "iris@1", "--why", "test", cwd=tmp_path).returncode == 1
    journal = zaphod("journal", "iris", cwd=tmp_path).stdout
    assert "worse" in journal
    assert "overridden" in journal
    assert "champion" in zaphod("models", cwd=tmp_path).stdout


def test_an_edited_schema_is_checked_against_the_sample(
    tmp_path: Path, zaphod: Zaphod, iris: tuple[pd.DataFrame, pd.Series]
) -> None:
    """A range that the sample breaks is named with its row."""
    X, y = iris
    (tmp_path / "iris.skops").write_bytes(skops.io.dumps(LogisticRegression(max_iter=500).fit(X, y)))
    X.to_parquet(tmp_path / "iris.parquet")
    zaphod("schema", "iris.skops", "--data", "iris.parquet", cwd=tmp_path)
    schema = msgspec.json.decode((tmp_path / "schema.json").read_bytes())
    schema["fields"][0] |= {"maximum": 5.0, "out_of_domain": "reject"}
    (tmp_path / "schema.json").write_bytes(msgspec.json.encode(schema))

    done = zaphod(
        "package", "iris.skops", "--name", "iris", "--data", "iris.parquet", "--schema", "schema.json", cwd=tmp_path
    )

    assert done.returncode == 1
    assert "sepal_length" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_console_script_says_what_is_wrong_in_one_sentence(tmp_path: Path) -> None:
    """As a shell sees it: exit code 1, nothing on standard output, no traceback."""
    script = Path(sys.executable).parent / "zaphod"

    done = subprocess.run([script, "inspect", "iris@7"], cwd=tmp_path, capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("Cannot load iris@7")


def test_a_bundle_of_another_scikit_learn_is_refused(registry: Registry, iris: tuple[pd.DataFrame, pd.Series]) -> None:
    """The estimator's own engine is not run by a version that did not make it."""
    X, y = iris
    package(LogisticRegression(max_iter=500).fit(X, y), name="iris", sample=X, registry=registry)
    bundle = registry.load("iris", 1)
    manifest = msgspec.structs.replace(bundle.manifest, libraries={**bundle.manifest.libraries, "scikit-learn": "1.2"})
    assert isinstance(manifest, Manifest)
    other = type(bundle)(bundle.version, manifest, bundle.schema, bundle.files, bundle.sha256)

    with pytest.raises(ModelLoadError, match=r"packaged with scikit-learn 1\.2"):
        other.load_reference()


def test_an_empty_table_predicts_nothing(registry: Registry, iris: tuple[pd.DataFrame, pd.Series]) -> None:
    """No row is no error."""
    import pyarrow as pa

    X, y = iris
    package(LogisticRegression(max_iter=500).fit(X, y), name="iris", sample=X, registry=registry)
    bundle = registry.load("iris", 1)
    nothing = from_table(bundle.schema, pa.Table.from_pandas(X.head(0), preserve_index=False)).columns

    labels = bundle.load_predictor().predict(nothing).labels

    assert labels is not None
    assert len(labels) == 0
