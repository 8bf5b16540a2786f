"""What configs/serve.yaml may say under `args`."""

from __future__ import annotations

import pydantic

from zaphod.monitoring.settings import LogSettings
from zaphod.settings import Settings
from zaphod.shadow import ShadowSettings


class Limits(Settings):
    """What a request may be at most. Beyond it the answer is 413."""

    max_body_bytes: pydantic.PositiveInt = 8 * 1024 * 1024
    """Bytes in a request body."""

    max_rows: pydantic.PositiveInt = 10_000
    """Rows in one request."""

    body_timeout_s: pydantic.PositiveFloat = 10.0
    """Seconds for a request's body to arrive in; then 408."""

    predict_timeout_s: pydantic.PositiveFloat = 20.0
    """Seconds for a prediction; then 504. Keep it under `request_timeout_s` of `http_options`."""

    max_decoded_bytes: pydantic.PositiveInt = 64 * 1024 * 1024
    """What Parquet pages and Arrow dictionaries in a body may unpack to, in bytes."""


class ServeArgs(Settings):
    """Arguments of the application."""

    registry: str = "var/registry"
    """The registry's folder. A relative one starts at ZAPHOD_HOME, or where Ray was started."""

    models: tuple[str, ...] = pydantic.Field(min_length=1)
    """References of the models to serve: `name`, `name@alias` or `name@7`."""

    limits: Limits = Limits()
    """Limits of a request."""

    monitoring: LogSettings = LogSettings()
    """The prediction log and the outcomes. A relative uri starts where the registry's does."""

    shadow: ShadowSettings = ShadowSettings()
    """The process in which a challenger in the shadow scores copies, one for each replica."""

    predictions: str | None = None
    """Output of a batch job, a folder or a bucket's address: `GET /v1/predictions/<id>` tells the newest published
    prediction of an entity from there. A relative one starts where the registry's does."""

    keys_file: str | None = None
    """File with the API keys (`zaphod keys add`); a relative one starts where `registry` does. Without it, and without
    ZAPHOD_API_KEYS in the environment, everybody who reaches the port may predict."""

    max_batch_rows: pydantic.PositiveInt = 1024
    """Rows of waiting requests that a heavy model scores in one call; a larger request is scored by itself."""

    inline: bool = True
    """Whether predictions that take microseconds go round Ray's handling of requests (docs/online.md)."""
