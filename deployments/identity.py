"""Whom a request is about and how its prediction is called, from its headers."""

from __future__ import annotations

import msgspec

from deployments.protocols.base import Headers, Question
from zaphod.errors import InvalidInputError

ENTITY = b"x-zaphod-entity"
PREDICTION = b"x-zaphod-prediction-id"

_MAX_CHARS = 200


class Identity(msgspec.Struct, frozen=True, gc=False):
    """entity: of all rows of the request. id: the caller's own name for the prediction, unique for good."""

    entity: str | None = None
    id: str | None = None


NOBODY = Identity()


def identify(headers: Headers) -> Identity:
    """Raises: InvalidInputError for a value that is empty, too long or no text."""
    # Quicker than a look at each: there may be many, and nearly none is ours.
    given = dict(headers)
    entity, name = given.get(ENTITY), given.get(PREDICTION)
    if entity is None and name is None:
        return NOBODY
    return Identity(
        None if entity is None else _text(ENTITY, entity), None if name is None else _text(PREDICTION, name)
    )


def named(question: Question, identity: Identity) -> Question:
    """With what the headers say, where the protocol's body says nothing."""
    if identity is NOBODY:
        return question
    entities = question.entities
    if entities is None and identity.entity is not None:
        entities = [identity.entity] * len(question.columns.numbers)
    return msgspec.structs.replace(question, entities=entities, id=identity.id or question.id)


def _text(key: bytes, value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"Expected UTF-8 - at header `{key.decode()}`") from error
    if not 1 <= len(text) <= _MAX_CHARS:
        raise InvalidInputError(f"Expected 1 to {_MAX_CHARS} characters - at header `{key.decode()}`")
    return text
