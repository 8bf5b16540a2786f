"""scikit-learn to ONNX in double precision, with proof of parity.

What an estimator asks of each feature is moved back to the model's own inputs where that is exact, so that a row costs
microseconds. Strings never reach the graph: each is looked up once and comes in as a code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zaphod.schema import Schema

if TYPE_CHECKING:  # a second of imports that a server with a compiled model never needs
    import pandas as pd
    from sklearn.base import BaseEstimator


class NotCompilable(Exception):  # noqa: N818  # an answer, not a fault
    """Why an estimator has no compiled form."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled model: the bytes of an ONNX file."""

    model: bytes


def compile_model(estimator: BaseEstimator, schema: Schema, *, sample: pd.DataFrame | None = None) -> Compiled:
    """What it gives is not proved yet: `check_parity` does that.

    Raises: NotCompilable.
    """
    # Servers import this package for the engine and never compile: the converters stay out of their memory.
    from zaphod.compiler.conversion import convert

    del sample
    try:
        return Compiled(model=convert(estimator, schema))
    except NotCompilable:
        raise
    except Exception as error:  # a converter that fails is no reason not to serve the estimator
        raise NotCompilable(f"its converter raised {type(error).__name__}: {error}") from error
