"""The one table from errors to HTTP."""

from __future__ import annotations

import re

from zaphod import errors

STATUS: dict[type[errors.ZaphodError], int] = {
    errors.ConfigError: 400,
    errors.InvalidInputError: 422,
    errors.DecodeError: 400,
    errors.SchemaMismatchError: 422,
    errors.UnsupportedTypeError: 415,
    errors.LimitExceededError: 413,
    errors.UnauthenticatedError: 401,
    errors.ForbiddenError: 403,
    errors.SlowRequestError: 408,
    errors.ModelNotFoundError: 404,
    errors.ModelLoadError: 503,
    errors.PackagingError: 500,
    errors.GateError: 409,
    errors.PredictionTimeoutError: 504,
    errors.PredictionError: 500,
    errors.RegistryConflictError: 409,
    errors.StorageUnavailableError: 503,
    errors.FencedError: 409,
    errors.TrimmedError: 410,
    errors.QueueUnavailableError: 503,
    errors.BatchError: 500,
    errors.PredictionNotFoundError: 404,
    errors.OverloadedError: 429,
    errors.LogFullError: 503,
    errors.EnvironmentNotReadyError: 503,
}

# What the prediction log is not told: it has no room, or anybody who reaches the port could fill it.
UNRECORDED = (errors.LogFullError, errors.UnauthenticatedError)

_PATH = re.compile(r" - at [`']?([^`']+)[`']?$")
_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])")


def status_of(error: errors.ZaphodError) -> int:
    """The status of the nearest class in the table."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def body_of(error: errors.ZaphodError) -> dict[str, str]:
    """`error` (a stable word), `message`, and `field` where the message names a place."""
    code = _WORDS.sub("_", type(error).__name__.removesuffix("Error")).lower()
    body = {"error": code, "message": error.message}
    place = _PATH.search(error.message)
    if place:
        body["field"] = place.group(1)
    return body
