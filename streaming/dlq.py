"""`zaphod dlq`: what became of the events that got no answer."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from streaming import config as configuration
from streaming.config import Topic
from streaming.events import ORIGINAL_ID
from streaming.queues.base import Cause, Cursor, DeadEntry, NewEvent, Queue
from streaming.queues.factory import open_queue
from zaphod.errors import ConfigError
from zaphod.terminal import plain

app = typer.Typer(
    no_args_is_help=True, help="Lists, shows, replays and drops dead letters of a stream, or of the topic of outcomes."
)

_Config = Annotated[Path, typer.Option("--config", help="the settings of the stream")]
_Cause = Annotated[Cause | None, typer.Option("--cause", help="only these")]
_Letters = Annotated[list[str] | None, typer.Argument(help="letters as `list` names them: partition/generation/offset")]
_All = Annotated[bool, typer.Option("--all", help="every letter, or every one of a cause")]

_ADDRESS = re.compile(r"(\d{1,4})/(\d{1,9})/(\d{1,18})")
_AT_ONCE = 500


@app.command(name="list")
def list_letters(
    config: _Config = configuration.DEFAULT,
    cause: _Cause = None,
    limit: Annotated[int, typer.Option(help="letters at most", min=1)] = 100,
    topic: Topic = "events",
) -> None:
    """Lists letters with their cause, oldest first."""
    table = Table("letter", "id", "cause", "attempts", "version", "bytes", "reason")
    with _opened(config, topic) as queue:
        for number, entry in enumerate(letters(queue, cause=cause)):
            if number == limit:
                table.caption = f"the first {limit}; there are more"
                break
            letter = entry.letter
            table.add_row(
                address(entry), plain(letter.id), letter.cause, str(letter.attempts), str(letter.version),
                str(len(letter.value)), plain(letter.reason),
            )  # fmt: skip
    Console().print(table)


@app.command()
def show(
    letter: Annotated[str, typer.Argument(help="partition/generation/offset")],
    config: _Config = configuration.DEFAULT,
    topic: Topic = "events",
) -> None:
    """Writes the event's original bytes to standard output, and what is known of it to standard error."""
    with _opened(config, topic) as queue:
        found = find(queue, letter)
    known = {
        name: getattr(found.letter, name)
        for name in ("id", "key", "headers", "created", "cause", "reason", "attempts", "version")
    }
    # As ASCII: JSON leaves some of the characters as they are that steer a terminal.
    sys.stderr.write(json.dumps(msgspec.to_builtins(known), indent=2) + "\n")
    sys.stdout.buffer.write(found.letter.value)
    sys.stdout.buffer.flush()


@app.command()
def replay(
    names: _Letters = None,
    config: _Config = configuration.DEFAULT,
    cause: _Cause = None,
    everything: _All = False,  # noqa: FBT002
    topic: Topic = "events",
) -> None:
    """Sends letters to be scored once more, as new events that keep their id in the answer."""
    done = 0
    with _opened(config, topic) as queue:
        for entry in chosen(queue, names, cause=cause, everything=everything):
            # Sent before it is dropped: should this end between the two, the repeated id is not sent twice.
            queue.produce([again(entry)])
            queue.drop_dead_letter(entry.partition, entry.cursor)
            done += 1
    Console().print(f"sent {done} letters to be scored again")


@app.command()
def drop(
    names: _Letters = None,
    config: _Config = configuration.DEFAULT,
    cause: _Cause = None,
    everything: _All = False,  # noqa: FBT002
    topic: Topic = "events",
) -> None:
    """Removes letters for good."""
    with _opened(config, topic) as queue:
        done = sum(
            queue.drop_dead_letter(entry.partition, entry.cursor)
            for entry in chosen(queue, names, cause=cause, everything=everything)
        )
    Console().print(f"dropped {done} letters")


def letters(queue: Queue, *, cause: Cause | None = None) -> Iterator[DeadEntry]:
    """All of them, partition by partition, read in parts."""
    for partition in range(queue.num_partitions):
        cursor = Cursor()
        while found := queue.read_dead_letters({partition: cursor}, max_letters=_AT_ONCE):
            yield from (entry for entry in found if cause is None or entry.letter.cause is cause)
            cursor = found[-1].cursor


def find(queue: Queue, name: str) -> DeadEntry:
    """Raises: ConfigError when there is no such letter."""
    parts = _ADDRESS.fullmatch(name)
    if parts is None:
        raise ConfigError(f"Expected partition/generation/offset, got {name[:50]!r}")
    partition, generation, offset = map(int, parts.groups())
    if partition < queue.num_partitions:
        for entry in queue.read_dead_letters({partition: Cursor(generation, offset - 1)}, max_letters=1):
            if entry.cursor == Cursor(generation, offset):
                return entry
    raise ConfigError(
        f"Cannot find the dead letter {name}: there is none, or it is gone. `zaphod dlq list` names them."
    )


def chosen(queue: Queue, names: list[str] | None, *, cause: Cause | None, everything: bool) -> list[DeadEntry]:
    """The letters named, or all of a cause. Raises: ConfigError when neither or both are given."""
    if bool(names) == everything:
        raise ConfigError("Expected letters by name, or --all, got neither or both")
    return [find(queue, name) for name in names] if names else list(letters(queue, cause=cause))


def address(entry: DeadEntry) -> str:
    """How people name it."""
    return f"{entry.partition}/{entry.cursor.generation}/{entry.cursor.offset}"


def again(entry: DeadEntry) -> NewEvent:
    """A new event with the letter's bytes; its id is the same whenever this letter is sent again."""
    letter = entry.letter
    original = letter.headers.get(ORIGINAL_ID, letter.id)
    return NewEvent(
        value=letter.value,
        id=f"{original}~{address(entry)}",
        key=letter.key,
        headers={**letter.headers, ORIGINAL_ID: original},
        created=time.time(),
    )


@contextlib.contextmanager
def _opened(config: Path, topic: Topic) -> Iterator[Queue]:
    settings = configuration.queue_of(configuration.read_settings(config), topic)
    with contextlib.closing(open_queue(settings)) as queue:
        yield queue
