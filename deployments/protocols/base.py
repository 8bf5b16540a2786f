"""What every protocol is: it reads requests and writes responses, and knows nothing of transport or scoring."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Sequence
from typing import Protocol as Interface
from typing import TypeAlias

import msgspec

from deployments.catalogue import Catalogue, Wanted
from zaphod.columns import Columns
from zaphod.errors import DecodeError, UnsupportedTypeError, ZaphodError
from zaphod.served import Scored, Snapshot, Stamp

Headers: TypeAlias = Iterable[tuple[bytes, bytes]]

JSON = b"application/json"


class Request(msgspec.Struct, frozen=True, gc=False):
    """A whole prediction request. headers: names in lower case."""

    headers: Headers
    body: bytes

    def header(self, name: bytes) -> bytes:
        """The first header of this name; empty when there is none."""
        return next((value for key, value in self.headers if key == name), b"")


class Response(msgspec.Struct, frozen=True, gc=False):
    """A whole answer; bodies are small enough to hold."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Question(msgspec.Struct, frozen=True, gc=False):
    """Rows to score, with what the protocol needs again to write the answer.

    entities: whom each row is about, where the caller said it. id: of the prediction, where the caller chose it.
    form: the protocol's own, handed back to its `encode`; None when the plain answer is wanted.
    """

    columns: Columns
    entities: Sequence[str] | None = None
    id: str | None = None
    form: object = None


class Protocol(Interface):
    """One language. Instances are shared by all requests of a replica and hold no state of any of them."""

    name: str

    def path(self, reference: str) -> str | None:
        """Where a model served under this reference takes predictions; None when every path goes by `match`."""
        ...

    def match(self, path: str) -> Wanted | None:
        """The model of a prediction path that is not one of `path`; None when the path is not this protocol's.

        Raises: ModelNotFoundError when the path is this protocol's and can name no model.
        """
        ...

    def decode(self, snapshot: Snapshot, request: Request) -> Question:
        """Raises: InvalidInputError, DecodeError, LimitExceededError, SchemaMismatchError."""
        ...

    def encode(self, snapshot: Snapshot, question: Question, scored: Scored) -> Response: ...

    def refuse(self, status: int, error: ZaphodError) -> Response:
        """The error in this protocol's form."""
        ...

    def inform(self, path: str, catalogue: Catalogue) -> Response | None:
        """Answers GET: metadata, health, of the models that the caller may know of.

        None when the path is not this protocol's. Raises: ModelNotFoundError.
        """
        ...


def check_encoding(request: Request) -> None:
    """Said once a body could not be read, so that nobody looks for the mistake in the JSON.

    Nothing is ever decompressed: a small body may grow a thousandfold. Raises: UnsupportedTypeError.
    """
    if request.header(b"content-encoding") not in (b"", b"identity"):
        raise UnsupportedTypeError("Expected a body without Content-Encoding, got a compressed one")


def nan_as_null(body: bytes) -> bytes:
    """JSON as Python writes it: `NaN` is not JSON, but it is what clients send for a null in a frame or an array.

    Numbers beyond a float's are left as they are written, for whoever reads the result to refuse.
    Raises: DecodeError when it is not even that; infinity is refused.
    """
    try:
        return msgspec.json.encode(json.loads(body, parse_constant=_null_of, parse_float=_finite))
    except (ValueError, RecursionError) as error:
        raise DecodeError("Expected JSON, got something else") from error


def _null_of(constant: str) -> None:
    if constant != "NaN":
        raise ValueError


def _finite(number: str) -> float | msgspec.Raw:
    """Python would read infinity, and msgspec write that as null."""
    value = float(number)
    return value if math.isfinite(value) else msgspec.Raw(number.encode())


def stamp_headers(scored: Scored) -> tuple[tuple[bytes, bytes], ...]:
    """Who answered, for protocols whose bodies have no room for it and for those that have.

    With rows of both variants in one request, the variant is `mixed` and the version the first one's.
    """
    headers = _stamp_headers(scored.stamps[0], mixed=scored.stamp_index is not None)
    return (*headers, (b"x-zaphod-prediction-id", scored.ids.encode())) if isinstance(scored.ids, str) else headers


@functools.lru_cache(maxsize=256)
def _stamp_headers(stamp: Stamp, *, mixed: bool) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"x-zaphod-model", stamp.model.encode()),
        (b"x-zaphod-version", b"%d" % stamp.version),
        (b"x-zaphod-variant", b"mixed" if mixed else stamp.variant.encode()),
    )
