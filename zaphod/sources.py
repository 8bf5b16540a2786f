"""Where a model to package may come from: files of skops, joblib, pickle and ONNX, and MLflow."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sklearn.base import BaseEstimator
from sklearn.exceptions import InconsistentVersionWarning

from zaphod.errors import ModelLoadError, PackagingError
from zaphod.trust import load_estimator

_PICKLES = (".joblib", ".pkl", ".pickle")
_MLFLOW = ("models:/", "runs:/")


@dataclass(frozen=True, slots=True)
class Source:
    """An estimator, or the bytes of an ONNX model; never both. origin: for the manifest, without a path."""

    origin: str
    estimator: BaseEstimator | None = None
    onnx: bytes | None = None


def load_source(text: str, *, trust_pickle: bool = False) -> Source:
    """A file by its suffix (.skops, .onnx, .joblib, .pkl, .pickle), or an MLflow URI (models:/…, runs:/…).

    trust_pickle: pickles run code of their author when they are read. It is run here, once; what is packaged is
    stored as skops, so no server ever reads a pickle.

    Raises: PackagingError, ModelLoadError when the source cannot be read or holds what is not trusted.
    """
    if text.startswith(_MLFLOW):
        _require_trust(f"the MLflow model {text}", trust_pickle=trust_pickle)
        return Source(origin=f"mlflow {text}", estimator=_load_mlflow(text))
    path = Path(text)
    suffix = path.suffix.lower()
    if suffix not in (".skops", ".onnx", *_PICKLES):
        raise PackagingError(
            f"Expected a .skops, .onnx, .joblib, .pkl or .pickle file, or models:/… or runs:/…, got {text!r}"
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PackagingError(f"Cannot read {text}: {error.strerror}. Give an existing file.") from error
    origin = f"{path.name} (sha256 {hashlib.sha256(data).hexdigest()})"
    if suffix == ".onnx":
        return Source(origin=origin, onnx=data)
    if suffix == ".skops":
        return Source(origin=origin, estimator=load_estimator(data))
    _require_trust(text, trust_pickle=trust_pickle)
    return Source(origin=origin, estimator=_unpickle(data, text))


def _require_trust(what: str, *, trust_pickle: bool) -> None:
    if not trust_pickle:
        raise PackagingError(
            f"Cannot read {what}: it is a pickle, and reading a pickle runs whatever code its author put into it. "
            "If you trust the author, repeat with --trust-pickle; what is packaged is stored without pickle."
        )


def _unpickle(data: bytes, what: str) -> BaseEstimator:
    import joblib

    return _read(lambda: joblib.load(io.BytesIO(data)), what)


def _load_mlflow(uri: str) -> BaseEstimator:
    try:
        import mlflow.sklearn
    except ImportError as error:
        raise PackagingError(
            f"Cannot read {uri}: MLflow is not installed. Run `pip install -e '.[mlflow]'` in Zaphod's folder."
        ) from error
    return _read(lambda: mlflow.sklearn.load_model(uri), uri)


def _read(load: Callable[[], object], what: str) -> BaseEstimator:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", InconsistentVersionWarning)
            estimator = load()
    except InconsistentVersionWarning as warning:
        raise PackagingError(
            f"Cannot package {what}: it was fitted with scikit-learn {warning.original_sklearn_version}, this is "
            f"{warning.current_sklearn_version}, and its predictions may differ. Fit it again here."
        ) from warning
    except Exception as error:  # unpickling raises whatever the pickled code raises, and MLflow its own
        raise ModelLoadError(f"Cannot read {what}: {type(error).__name__}: {error}") from error
    if not isinstance(estimator, BaseEstimator):
        raise PackagingError(f"Expected a scikit-learn estimator, got {type(estimator).__name__} - in {what}")
    return estimator
