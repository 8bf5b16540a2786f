"""Events on the wire: plain JSON and CloudEvents (structured and binary), in and out.

Plain JSON: the value is the row, one key a field. CloudEvents: the row is `data`. The answer has the form of the event.
"""

from __future__ import annotations

import datetime
import enum
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from streaming.queues.base import NO_HEADERS, Event, Output
from zaphod.columns import Row, RowDecoder, clip
from zaphod.errors import DecodeError, InvalidInputError
from zaphod.served import Stamp

CONTENT_TYPE = "content-type"
ORIGINAL_ID = "zaphod-original-id"
"""Header of an event that was sent again under a new id: its answer names the old one."""

_STRUCTURED = "application/cloudevents+json"
_JSON = "application/json"
# The prefix of CloudEvents attributes in headers: HTTP's and Kafka's binding.
_BINARY_PREFIXES = ("ce_", "ce-")
_CLOUD_MARK = b'"specversion"'
_PREDICTION_TYPE = "zaphod.prediction"


class Form(enum.StrEnum):
    """How a CloudEvent was written."""

    STRUCTURED = "structured"
    BINARY = "binary"


class _CloudEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The attributes that are read; extensions pass unread."""

    specversion: str
    id: str
    source: str
    type: str
    subject: str | None = None
    datacontenttype: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"")


class CloudNames(msgspec.Struct, frozen=True):
    """What a structured CloudEvent says of itself to whoever sends it on."""

    id: str
    partitionkey: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"")


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """What a CloudEvent had around the row, for the answer."""

    form: Form
    id: str
    source: str
    subject: str | None


class Decoded(msgspec.Struct, frozen=True, gc=False):
    """An event with its row. envelope: None where the event is plain JSON."""

    event: Event
    partition: int
    row: Row
    envelope: Envelope | None = None


class PredictionEvent(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The answer to one event; `source` is the event's own, where it had one.

    prediction_id: by which outcomes name it; left out where it is the `id`.
    """

    id: str
    model: str
    version: int
    variant: str
    partition: int
    offset: int
    prediction: msgspec.Struct
    source: str | None = None
    prediction_id: str | None = None


class _PredictionCloudEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    specversion: str
    id: str
    source: str
    type: str
    time: str
    datacontenttype: str
    data: PredictionEvent
    subject: str | None = None


_cloud_decoder = msgspec.json.Decoder(_CloudEvent)
_names_decoder = msgspec.json.Decoder(CloudNames)
_encoder = msgspec.json.Encoder()


def decode_plain(found: Sequence[Event], decoder: RowDecoder) -> list[Row] | None:
    """The rows of events that are all plain JSON and hold to the schema, as nearly all do; else None: see `decode`."""
    if any(event.headers for event in found):
        return None
    return decoder.decode_all([event.value for event in found])


def decode(event: Event, decoder: RowDecoder) -> tuple[Row, Envelope | None]:
    """The row, and the envelope if it had one.

    Raises: DecodeError when it is not JSON, InvalidInputError naming field and reason.
    """
    form = _form(event) if event.headers or _CLOUD_MARK in event.value else None
    if form is None:
        return decoder.decode_row(event.value), None
    if form is Form.STRUCTURED:
        cloud = _decode_cloud(event.value)
        return decoder.decode_row(cloud.data), Envelope(form, cloud.id, cloud.source, cloud.subject)
    subject = _find_attribute(event, "subject")
    envelope = Envelope(form, _attribute(event, "id"), _attribute(event, "source"), subject)
    return decoder.decode_row(event.value), envelope


def encode(
    decoded: Sequence[Decoded], *, stamps: Iterable[Stamp], predictions: Iterable[msgspec.Struct]
) -> list[Output]:
    """The answers, each in its event's own form; id, partition and offset name the event."""
    bodies: list[msgspec.Struct] = []
    headers: dict[int, Mapping[str, str]] = {}
    for item, stamp, prediction in zip(decoded, stamps, predictions, strict=False):  # stamps may have no end
        event, envelope = item.event, item.envelope
        answer = PredictionEvent(
            event.id, stamp.model, stamp.version, stamp.variant, item.partition, event.offset, prediction
        )
        if envelope is None and not event.headers:
            bodies.append(answer)
        else:
            body, headers[len(bodies)] = _in_form(answer, event, envelope)
            bodies.append(body)
    # All in one call: JSON has no line break inside.
    values = _encoder.encode_lines(bodies).splitlines()
    outputs = [
        Output(item.event.offset, item.event.id, item.event.key, value, NO_HEADERS, item.event.created)
        for item, value in zip(decoded, values, strict=True)
    ]
    for i, its_headers in headers.items():
        outputs[i] = msgspec.structs.replace(outputs[i], id=original_id(decoded[i].event), headers=its_headers)
    return outputs


def cloud_names(value: bytes) -> CloudNames | None:
    """None when it is no structured CloudEvent, or a broken one, which is for the scorer to refuse."""
    if _CLOUD_MARK not in value:
        return None
    try:
        return _names_decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def original_id(event: Event) -> str:
    """The id under which the event first came."""
    return original_ids([event])[0]


def original_ids(found: Iterable[Event]) -> list[str]:
    """Of each: a call for each would take longer than the answer."""
    return [event.headers.get(ORIGINAL_ID, event.id) if event.headers else event.id for event in found]


def _form(event: Event) -> Form | None:
    if event.headers:
        if event.headers.get(CONTENT_TYPE, "").startswith(_STRUCTURED):
            return Form.STRUCTURED
        if any(f"{prefix}specversion" in event.headers for prefix in _BINARY_PREFIXES):
            return Form.BINARY
    # Written to a queue by hand, a CloudEvent often comes without its content type.
    return Form.STRUCTURED if _CLOUD_MARK in event.value else None


def _decode_cloud(value: bytes) -> _CloudEvent:
    try:
        cloud = _cloud_decoder.decode(value)
    except msgspec.ValidationError as error:
        raise InvalidInputError(clip(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(clip(f"Expected a CloudEvent in JSON, got something else: {error}")) from error
    if not cloud.specversion.startswith("1."):
        raise InvalidInputError("Expected a CloudEvent of version 1.x, got another - at `$.specversion`")
    if not cloud.data:
        raise InvalidInputError("Expected `data` with the row, got none - at `$.data`")
    return cloud


def _find_attribute(event: Event, name: str) -> str | None:
    for prefix in _BINARY_PREFIXES:
        if prefix + name in event.headers:
            return event.headers[prefix + name]
    return None


def _attribute(event: Event, name: str) -> str:
    found = _find_attribute(event, name)
    if found is None:
        raise InvalidInputError(
            f"Expected the CloudEvents attribute `{name}` in the headers, got none - at `ce_{name}`"
        )
    return found


def _in_form(
    answer: PredictionEvent, event: Event, envelope: Envelope | None
) -> tuple[msgspec.Struct, Mapping[str, str]]:
    """Body and headers of an answer whose event has headers or an envelope."""
    prediction_id = original_id(event)
    if envelope is None:
        return msgspec.structs.replace(answer, id=prediction_id), NO_HEADERS
    return _wrap(msgspec.structs.replace(answer, id=envelope.id), envelope, prediction_id)


def _wrap(answer: PredictionEvent, envelope: Envelope, prediction_id: str) -> tuple[msgspec.Struct, Mapping[str, str]]:
    """The answer as a CloudEvent: its body and headers."""
    answer = msgspec.structs.replace(
        answer,
        source=envelope.source,
        prediction_id=None if prediction_id == envelope.id else prediction_id,
    )
    cloud = _PredictionCloudEvent(
        specversion="1.0",
        # Unique within its source, and the same again when the event is scored again.
        id=f"{answer.partition}-{answer.offset}",
        source=f"/zaphod/{answer.model}",
        type=_PREDICTION_TYPE,
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        datacontenttype=_JSON,
        data=answer,
        subject=envelope.subject,
    )
    if envelope.form is Form.STRUCTURED:
        return cloud, {CONTENT_TYPE: _STRUCTURED}
    return answer, _binary_headers(cloud)


def _binary_headers(cloud: _PredictionCloudEvent) -> dict[str, str]:
    headers = {
        CONTENT_TYPE: _JSON,
        "ce_specversion": cloud.specversion,
        "ce_id": cloud.id,
        "ce_source": cloud.source,
        "ce_type": cloud.type,
        "ce_time": cloud.time,
    }
    if cloud.subject is not None:
        headers["ce_subject"] = cloud.subject
    return headers
