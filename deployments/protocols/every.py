"""All protocols that are spoken over HTTP."""

from __future__ import annotations

from deployments.catalogue import Catalogue
from deployments.protocols.base import Protocol
from deployments.protocols.mlflow import MLflow
from deployments.protocols.openinference import OpenInference
from deployments.protocols.plain import Plain
from deployments.settings import Limits


def every_protocol(catalogue: Catalogue, *, limits: Limits) -> tuple[Protocol, ...]:
    """The first is also the form of errors on paths that are nobody's."""
    return (
        Plain(limits=limits),
        OpenInference(limits=limits),
        MLflow(catalogue, limits=limits),
    )
