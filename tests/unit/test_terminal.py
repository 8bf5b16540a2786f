"""What data says is shown, and does nothing else."""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table

from zaphod.terminal import plain


def test_brackets_and_control_characters_are_text() -> None:
    """Neither markup nor a terminal's own language; what else there is stays as it is."""
    output = io.StringIO()
    table = Table("id")
    table.add_row(plain("[refund] of [/nope] \x1b[2J\x9b31m\r\né 漢"))

    Console(file=output, width=100).print(table)

    assert r"[refund] of [/nope] \x1b[2J\x9b31m\x0d\x0aé 漢" in output.getvalue()
