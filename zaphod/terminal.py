"""Text of others on a terminal: as it is, not as what a terminal or rich would take it for."""

from __future__ import annotations

import re

from rich.text import Text

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def plain(value: object) -> Text:
    """What data says. Brackets are no markup, and characters that steer a terminal are written as escapes."""
    return Text(_CONTROLS.sub(lambda found: f"\\x{ord(found.group()):02x}", str(value)))
