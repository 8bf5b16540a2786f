"""Errors cross processes and reach HTTP with their meaning."""

from __future__ import annotations

import pickle

import pytest

from deployments.errors import STATUS, body_of, status_of
from zaphod import errors
from zaphod.errors import ZaphodError


def leaves(kind: type[ZaphodError] = ZaphodError) -> list[type[ZaphodError]]:
    """The classes that are raised."""
    return [leaf for child in kind.__subclasses__() for leaf in leaves(child)] or [kind]


ALL = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ZaphodError)]


@pytest.mark.parametrize("kind", ALL)
def test_survives_pickling(kind: type[ZaphodError]) -> None:
    """An error that crosses an actor boundary keeps its type, message and attributes."""
    back = pickle.loads(pickle.dumps(kind("Cannot do it: no. Do that instead.")))  # noqa: S301  # our own bytes

    assert (type(back), back.message, str(back)) == (kind, "Cannot do it: no. Do that instead.", str(back))


@pytest.mark.parametrize("kind", leaves())
def test_every_leaf_has_a_status(kind: type[ZaphodError]) -> None:
    """No error reaches a caller as an accidental 500."""
    assert kind in STATUS


@pytest.mark.parametrize("kind", leaves())
def test_what_is_refused_is_no_failure(kind: type[ZaphodError]) -> None:
    """What the log calls refused is what HTTP answers below 500, in every arm."""
    assert kind.refusal == (status_of(kind("")) < 500)


def test_the_drawn_tree_is_complete() -> None:
    """The tree at the top of errors.py names every class."""
    assert [kind.__name__ for kind in ALL if kind.__name__ not in (errors.__doc__ or "")] == []


def test_body_names_the_field() -> None:
    """The place in a message becomes the body's field."""
    error = errors.InvalidInputError("Expected `float`, got `str` - at `$.rows[0].amount`")

    assert body_of(error) == {"error": "invalid_input", "message": error.message, "field": "$.rows[0].amount"}
    assert status_of(error) == 422
