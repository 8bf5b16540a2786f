"""`POST /v1/models/{name}[@alias|@version]:predict`: rows as JSON objects."""

from __future__ import annotations

import re

import msgspec

from deployments.catalogue import Catalogue
from deployments.errors import body_of
from deployments.pages import describe
from deployments.protocols.base import Question, Request, Response, Wanted, stamp_headers
from deployments.settings import Limits
from zaphod.errors import InvalidInputError, LimitExceededError, ZaphodError
from zaphod.outputs import to_rows
from zaphod.served import Scored, Snapshot

_MODEL = re.compile(r"/v1/models/([^/:@]{1,100})(?:@([^/:@]{1,100}))?(:predict)?")


class Plain:
    """Rows as JSON objects in, one object per row out."""

    name = "plain"

    def __init__(self, catalogue: Catalogue, *, limits: Limits) -> None:
        self._catalogue = catalogue
        self._limits = limits
        self._encoder = msgspec.json.Encoder()

    def path(self, reference: str) -> str:
        return f"/v1/models/{reference}:predict"

    def match(self, path: str) -> Wanted | None:
        found = _MODEL.fullmatch(path)
        return _wanted(found) if found and found[3] else None

    def decode(self, snapshot: Snapshot, request: Request) -> Question:
        body = request.body
        if not body:
            raise InvalidInputError('Expected a body `{"rows": [{…}]}` or one row `{…}`, got nothing')
        rows = snapshot.decoder.decode_request(body)
        if not rows:
            raise InvalidInputError("Expected at least one row, got none - at `$.rows`")
        if len(rows) > self._limits.max_rows:
            raise LimitExceededError(
                f"Expected at most {self._limits.max_rows} rows (max_rows), got {len(rows)} - at `$.rows`"
            )
        return Question(snapshot.decoder.columns(rows))

    def encode(self, snapshot: Snapshot, question: Question, scored: Scored) -> Response:
        stamp = scored.stamps[0]
        predictions = to_rows(snapshot.schema, scored.predictions)
        document: dict[str, object] = {"model": stamp.model, "version": stamp.version, "variant": stamp.variant}
        if scored.ids is not None:
            document["prediction_id"] = scored.ids
        if scored.stamp_index is not None:
            document["variant"] = "mixed"
            for row, prediction in enumerate(predictions):
                prediction |= {"version": scored.stamp_of(row).version, "variant": scored.stamp_of(row).variant}
        document["predictions"] = predictions
        return Response(200, self._encoder.encode(document), headers=stamp_headers(scored))

    def refuse(self, status: int, error: ZaphodError) -> Response:
        return Response(status, self._encoder.encode(body_of(error)))

    def inform(self, path: str) -> Response | None:
        if path == "/v1/models":
            documents = [describe(reference, snapshot) for reference, snapshot in self._catalogue.snapshots().items()]
            return Response(200, self._encoder.encode({"models": documents}))
        found = _MODEL.fullmatch(path)
        if found is None or found[3]:
            return None
        wanted = _wanted(found)
        reference = found[0].rpartition("/")[2]
        return Response(200, self._encoder.encode(describe(reference, self._catalogue.find(wanted).snapshot())))


def _wanted(found: re.Match[str]) -> Wanted:
    selector = found[2]
    if selector is not None and selector.isascii() and selector.isdigit():
        return Wanted(name=found[1], version=selector)
    return Wanted(name=found[1], alias=selector)
