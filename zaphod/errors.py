"""Every error Zaphod raises on purpose.

ZaphodError
├── ConfigError                 a setting or a file of settings is wrong
├── InvalidInputError           the caller's data is wrong; never retried
│   ├── DecodeError             the bytes are not what their type says
│   ├── SchemaMismatchError     a table lacks a column or has one of another type
│   ├── UnsupportedTypeError    bytes of a type, or compressed in a way, that is not taken
│   └── LimitExceededError      too large, too deep or too many rows
├── AccessError
│   ├── UnauthenticatedError    no key, or one that is not known
│   └── ForbiddenError          a known key that may not do this
├── SlowRequestError            the caller took too long to send the request
├── ModelError
│   ├── ModelNotFoundError      no such model, version or alias
│   ├── ModelLoadError          a bundle that is broken, tampered with or not trusted
│   ├── PackagingError          an estimator that cannot be packaged
│   ├── GateError               a version that has not passed the offline gate
│   ├── PredictionTimeoutError  the model took too long
│   └── PredictionError         the model failed on input that was valid
├── RegistryConflictError       somebody else changed the registry first; read and retry
├── StorageUnavailableError     the registry's storage cannot be reached at the moment; retried
├── QueueError                  the queue refused or could not be reached
│   ├── FencedError             another owner holds the partition now; stop writing
│   ├── TrimmedError            what is asked for has been removed, because of its age
│   └── QueueUnavailableError   cannot be reached at the moment; retried
├── BatchError                  a batch run that may not be published
├── PredictionNotFoundError     no published run has a prediction of the entity
├── OverloadedError             no room in the queue; retry later
├── LogFullError                no room in the prediction log, without which nothing may be answered; retry later
└── EnvironmentNotReadyError    this machine lacks what is needed (port, permission, version)

Messages take one of two forms: `Expected <x>, got <y> - at <path>` for data, and
`Cannot <do what> <which>: <why>. <Do this instead>.` for refusals. They never carry the caller's data.
"""

from __future__ import annotations


class ZaphodError(Exception):
    """Base of all.

    retryable: whether the same call may succeed later, unchanged. refusal: whether the caller is told no, rather than
    that something failed; HTTP says that below 500.
    """

    retryable = False
    refusal = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ConfigError(ZaphodError):
    """A setting is unknown, of the wrong type, or contradicts another."""

    refusal = True


class InvalidInputError(ZaphodError):
    """The caller's data breaks the model's schema."""

    refusal = True


class DecodeError(InvalidInputError):
    """The bytes cannot be decoded at all."""


class SchemaMismatchError(InvalidInputError):
    """A table's columns are not the model's fields."""


class LimitExceededError(InvalidInputError):
    """A body, a row count or a depth is over its limit."""


class UnsupportedTypeError(InvalidInputError):
    """The request's content type or content encoding is not one that is taken."""


class AccessError(ZaphodError):
    """The caller may not do this."""

    refusal = True


class UnauthenticatedError(AccessError):
    """The request has no API key, or one that nobody was given."""


class ForbiddenError(AccessError):
    """The API key does not cover what was asked."""


class SlowRequestError(ZaphodError):
    """The request did not arrive in time."""

    retryable = True
    refusal = True


class ModelError(ZaphodError):
    """Something about the model, not about the data."""


class ModelNotFoundError(ModelError):
    """The registry has no such model, version or alias."""

    refusal = True


class ModelLoadError(ModelError):
    """The bundle is broken, tampered with, or holds something that is not trusted."""


class PackagingError(ModelError):
    """The estimator cannot be packaged."""


class GateError(ModelError):
    """The version has not passed the offline gate, so it may not become champion."""

    refusal = True


class PredictionTimeoutError(ModelError):
    """The model did not answer in time."""

    retryable = True


class PredictionError(ModelError):
    """The model raised on rows that pass its schema."""


class RegistryConflictError(ZaphodError):
    """Another writer came first. Read the registry again, then decide again."""

    retryable = True
    refusal = True


class StorageUnavailableError(ZaphodError):
    """The registry's storage cannot be reached at the moment."""

    retryable = True


class QueueError(ZaphodError):
    """The queue refused an operation."""


class FencedError(QueueError):
    """The lease has passed to another owner: nothing of this call was written."""

    refusal = True


class TrimmedError(QueueError):
    """Events or outputs after the given place have been removed, because of their age."""

    refusal = True


class QueueUnavailableError(QueueError):
    """The queue cannot be reached or cannot write at the moment."""

    retryable = True


class BatchError(ZaphodError):
    """The run was stopped and nothing was published."""


class PredictionNotFoundError(ZaphodError):
    """No published run has a prediction of the entity."""

    refusal = True


class OverloadedError(ZaphodError):
    """The queue of waiting work is full."""

    retryable = True
    refusal = True


class LogFullError(ZaphodError):
    """The prediction log has no room at the moment, and `when_full: block` allows no prediction without its record."""

    retryable = True


class EnvironmentNotReadyError(ZaphodError):
    """The machine lacks a port, a permission or a version that is needed."""
