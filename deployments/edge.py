"""Keeps what HAProxy tells about itself on this machine: Ray lets it listen for that on every address.

Its page of statistics and its numbers for Prometheus ask for no key. The edge itself listens where `http_options` says.
"""

from __future__ import annotations

import logging

_log = logging.getLogger("ray.serve")

_ADDRESS = "127.0.0.1"
_BINDS = ("bind :{{ config.metrics_port }}", "bind *:{{ config.stats_port }}")


def narrow() -> None:
    """To be called in a worker of Ray before it loads what writes HAProxy's configuration."""
    from ray.serve._private import haproxy_templates

    template = haproxy_templates.HAPROXY_CONFIG_TEMPLATE
    for bind in _BINDS:
        if bind not in template:
            _log.warning("cannot narrow where HAProxy listens: Ray's template is another", extra={"bind": bind})
        template = template.replace(bind, f"bind {_ADDRESS}:{bind.partition(':')[2]}")
    haproxy_templates.HAPROXY_CONFIG_TEMPLATE = template
