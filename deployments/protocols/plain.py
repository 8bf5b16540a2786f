"""`POST /v1/models/{name}[@alias|@version]:predict`: rows as JSON objects, or as an Arrow IPC stream."""

from __future__ import annotations

import re

import msgspec
import pyarrow as pa

from deployments.catalogue import Catalogue, Wanted
from deployments.errors import body_of
from deployments.pages.describe import describe
from deployments.protocols import arrow
from deployments.protocols.base import Question, Request, Response, check_encoding, stamp_headers
from deployments.protocols.tables import check_num_rows, from_whole_table
from deployments.settings import Limits
from zaphod.errors import DecodeError, InvalidInputError, ZaphodError
from zaphod.outputs import RowWriter, to_arrow, to_rows
from zaphod.served import Scored, Snapshot

_MODEL = re.compile(r"/v1/models/([^/:@]{1,100})(?:@([^/:@]{1,100}))?(:predict)?")


class Plain:
    """Rows as JSON objects in, one object per row out."""

    name = "plain"

    def __init__(self, *, limits: Limits) -> None:
        self._limits = limits
        self._encoder = msgspec.json.Encoder()
        self._writers: dict[str, RowWriter] = {}

    def path(self, reference: str) -> str:
        return f"/v1/models/{reference}:predict"

    def match(self, path: str) -> Wanted | None:
        found = _MODEL.fullmatch(path)
        return Wanted.of(found[1], found[2]) if found and found[3] else None

    def decode(self, snapshot: Snapshot, request: Request) -> Question:
        body = request.body
        if not body:
            raise InvalidInputError('Expected a body `{"rows": [{…}]}` or one row `{…}`, got nothing')
        if body[:1] != b"{" and body.startswith(arrow.MAGIC):
            return self._decode_arrow(snapshot, request)
        try:
            rows = snapshot.decoder.decode_request(body)
        except DecodeError:
            check_encoding(request)
            raise
        check_num_rows(len(rows), max_rows=self._limits.max_rows)
        return Question(snapshot.decoder.columns(rows))

    def _decode_arrow(self, snapshot: Snapshot, request: Request) -> Question:
        limits = self._limits
        table = arrow.read_stream(
            snapshot.schema, request.body, max_rows=limits.max_rows, max_bytes=limits.max_decoded_bytes
        )
        columns = from_whole_table(snapshot.schema, table, max_rows=limits.max_rows)
        wants_arrow = arrow.CONTENT_TYPE in request.header(b"accept")
        return Question(columns, form=arrow.CONTENT_TYPE if wants_arrow else None)

    def encode(self, snapshot: Snapshot, question: Question, scored: Scored) -> Response:
        if question.form is not None:
            return _encode_arrow(snapshot, scored)
        stamp = scored.stamps[0]
        document: dict[str, object] = {"model": stamp.model, "version": stamp.version, "variant": stamp.variant}
        if scored.ids is not None:
            document["prediction_id"] = scored.ids
        if scored.stamp_index is None:
            document["predictions"] = self._writer(snapshot).rows(scored.predictions)
        else:
            document["variant"] = "mixed"
            predictions = to_rows(snapshot.schema, scored.predictions)
            for row, prediction in enumerate(predictions):
                prediction |= {"version": scored.stamp_of(row).version, "variant": scored.stamp_of(row).variant}
            document["predictions"] = predictions
        return Response(200, self._encoder.encode(document), headers=stamp_headers(scored))

    def _writer(self, snapshot: Snapshot) -> RowWriter:
        """Made once a bundle; two threads that make the same one do no harm."""
        bundle = snapshot.stamp.bundle_sha256
        writer = self._writers.get(bundle)
        if writer is None:
            writer = self._writers[bundle] = RowWriter(snapshot.schema)
        return writer

    def refuse(self, status: int, error: ZaphodError) -> Response:
        return Response(status, self._encoder.encode(body_of(error)))

    def inform(self, path: str, catalogue: Catalogue) -> Response | None:
        if path == "/v1/models":
            documents = [describe(reference, snapshot) for reference, snapshot in catalogue.snapshots().items()]
            return Response(200, self._encoder.encode({"models": documents}))
        found = _MODEL.fullmatch(path)
        if found is None or found[3]:
            return None
        served = catalogue.find(Wanted.of(found[1], found[2]))
        reference = found[0].rpartition("/")[2]
        return Response(200, self._encoder.encode(describe(reference, served.snapshot())))


def _encode_arrow(snapshot: Snapshot, scored: Scored) -> Response:
    """The outputs, and who gave each row's, as a stream."""
    table = to_arrow(snapshot.schema, scored.predictions)
    stamps = [scored.stamp_of(row) for row in range(table.num_rows)]
    table = table.append_column("model", pa.array([stamp.model for stamp in stamps], type=pa.string()))
    table = table.append_column("version", pa.array([stamp.version for stamp in stamps], type=pa.int64()))
    table = table.append_column("variant", pa.array([stamp.variant for stamp in stamps], type=pa.string()))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return Response(200, sink.getvalue().to_pybytes(), arrow.CONTENT_TYPE, headers=stamp_headers(scored))
