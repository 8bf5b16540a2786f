"""Whom a request is about and how its prediction is called, from its headers."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from deployments.protocols.base import Headers, Question
from zaphod.errors import InvalidInputError

ENTITY = b"x-zaphod-entity"
PREDICTION = b"x-zaphod-prediction-id"

_MAX_CHARS = 200


@dataclass(frozen=True, slots=True)
class Identity:
    """entity: of all rows of the request. id: the caller's own name for the prediction, unique for good."""

    entity: str | None = None
    id: str | None = None


NOBODY = Identity()


def identify(headers: Headers) -> Identity:
    """Raises: InvalidInputError for a value that is empty, too long or no text."""
    entity = name = None
    for key, value in headers:
        if key == ENTITY:
            entity = _text(key, value)
        elif key == PREDICTION:
            name = _text(key, value)
    return NOBODY if entity is None and name is None else Identity(entity, name)


def named(question: Question, identity: Identity) -> Question:
    """With what the headers say, where the protocol's body says nothing."""
    if identity is NOBODY:
        return question
    entities = question.entities
    if entities is None and identity.entity is not None:
        entities = [identity.entity] * question.columns.num_rows
    return msgspec.structs.replace(question, entities=entities, id=identity.id or question.id)


def _text(key: bytes, value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"Expected UTF-8 - at header `{key.decode()}`") from error
    if not 1 <= len(text) <= _MAX_CHARS:
        raise InvalidInputError(f"Expected 1 to {_MAX_CHARS} characters - at header `{key.decode()}`")
    return text
