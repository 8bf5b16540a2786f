"""Scores a stream: `python -m streaming --config configs/streaming.yaml` runs until SIGTERM drains it."""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from streaming.config import DEFAULT, Topic, queue_of, read_settings
from streaming.queues.factory import open_queue
from streaming.settings import StreamingSettings
from zaphod import machine
from zaphod.errors import ConfigError, ZaphodError
from zaphod.registry import Registry
from zaphod.schema import Schema
from zaphod.served import ServedModel

app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)

_Config = Annotated[Path, typer.Option("--config", help="the settings")]
_Model = Annotated[str | None, typer.Option("--model", help="reference of the model, instead of the settings'")]
_Events = Annotated[Path, typer.Option("--events", help="Parquet file or folder, one event a row")]
_Rate = Annotated[float | None, typer.Option("--rate", help="events a second; as fast as it goes if left out", min=0.1)]
_Id = Annotated[str | None, typer.Option("--id-column", help="column, or field of a line, with each event's id")]
_Key = Annotated[
    str | None, typer.Option("--key-column", help="column, or field of a line, whose equal values keep their order")
]
_RAY_ENV = Path("configs/ray.env")


@app.callback(invoke_without_command=True)
def run(context: typer.Context, config: _Config = DEFAULT, model: _Model = None) -> None:
    """Runs the pool until SIGTERM or Ctrl-C, then drains it."""
    if context.invoked_subcommand is None:
        settings = read_settings(config, model=model)
        place = find_ray()
        from streaming.session import run_pool

        run_pool(settings, place=place)


@app.command()
def demo(
    events: _Events,
    config: _Config = DEFAULT,
    rate: _Rate = 1000.0,
    seconds: Annotated[float, typer.Option(help="for how long events are sent", min=1, max=3600)] = 10.0,
    id_column: _Id = None,
    key_column: _Key = None,
) -> None:
    """Starts the pool, feeds it events and shows the outputs as they arrive."""
    settings = read_settings(config)
    place = find_ray()
    from streaming.session import Feed, run_demo

    feed = Feed(
        events=events, rate=rate or 1000.0, seconds=seconds, id_column=id_column, key_column=key_column, config=config
    )
    run_demo(settings, feed, place=place)


@app.command()
def produce(
    config: _Config = DEFAULT,
    events: Annotated[
        Path | None, typer.Option(help="Parquet file or folder; JSON lines from stdin if left out")
    ] = None,
    rate: _Rate = None,
    limit: Annotated[int | None, typer.Option(help="events at most", min=1)] = None,
    id_column: _Id = None,
    key_column: _Key = None,
    topic: Topic = "events",
) -> None:
    """Appends events to the stream."""
    from streaming import producer
    from streaming.display import tell_risks

    settings, console = read_settings(config), Console(stderr=True)
    if events is not None and topic == "outcomes":
        raise ConfigError("Cannot send a table of outcomes to their topic. Use `zaphod experiment import`.")
    queue = open_queue(queue_of(settings, topic))
    tell_risks(queue, console)
    if events is None:
        source = producer.from_lines(sys.stdin.buffer, id_column=id_column, key_column=key_column)
    else:
        source = producer.from_parquet(events, _schema(settings), id_column=id_column, key_column=key_column)
    # What was imported stays: looking through it would keep events that are due waiting for some 40 ms.
    gc.freeze()
    sent = producer.feed(queue, source, rate=rate, limit=limit)
    console.print(f"sent {sent} events")


@app.command()
def consume(
    config: _Config = DEFAULT,
    limit: Annotated[int | None, typer.Option(help="outputs at most", min=1)] = None,
    start: Annotated[Literal["beginning", "now"], typer.Option("--from", help="first output")] = "beginning",
    timeout_s: Annotated[float | None, typer.Option(help="end after so many seconds without an output")] = None,
) -> None:
    """Prints outputs, one line of JSON each."""
    from streaming.reader import Reader

    queue = open_queue(read_settings(config).queue)
    reader = Reader(queue, cursors=queue.output_ends() if start == "now" else None)
    gc.freeze()  # as in `produce`
    left = limit
    while left is None or left > 0:
        found = reader.read(wait_s=timeout_s or 3600.0)[:left]
        if not found and timeout_s is not None:
            return
        for delivered in found:
            sys.stdout.buffer.write(delivered.output.value + b"\n")
        sys.stdout.buffer.flush()
        left = None if left is None else left - len(found)


@app.command()
def outcomes(config: _Config = DEFAULT) -> None:
    """Takes outcomes from their topic into the log until SIGTERM or Ctrl-C."""
    from streaming.outcomes import open_consumer

    consumer = open_consumer(read_settings(config))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: consumer.stop())
    consumer.run()
    Console(stderr=True).print(f"took {consumer.num_taken} outcomes")


@app.command()
def lag(config: _Config = DEFAULT, topic: Topic = "events") -> None:
    """Shows what waits in each partition, and who consumes it."""
    table = Table("partition", "next offset", "end offset", "lag", "oldest waits (s)", "owner", "epoch")
    for position in open_queue(queue_of(read_settings(config), topic)).positions():
        table.add_row(
            str(position.partition), str(position.next_offset), str(position.end_offset), str(position.lag),
            f"{position.oldest_s:.1f}", position.owner or "-", str(position.epoch),
        )  # fmt: skip
    Console().print(table)


@app.command()
def replay(
    start: Annotated[int, typer.Option("--from", help="first offset to score again", min=0)],
    partition: Annotated[int | None, typer.Option(help="one partition only", min=0)] = None,
    config: _Config = DEFAULT,
    topic: Topic = "events",
) -> None:
    """Scores again from an offset on, never later than where it stands; the outputs come after those that are there."""
    queue = open_queue(queue_of(read_settings(config), topic))
    if partition is not None and partition >= queue.num_partitions:
        raise ConfigError(f"Expected a partition below {queue.num_partitions}, got {partition}")
    for each in range(queue.num_partitions) if partition is None else [partition]:
        Console().print(f"partition {each} goes on at offset {queue.replay(each, offset=start)}")


@app.command()
def trim(
    older_than: Annotated[
        float | None, typer.Option(help="seconds; the setting keep_s of the stream if left out", min=0)
    ] = None,
    config: _Config = DEFAULT,
    topic: Topic = "events",
) -> None:
    """Removes old outputs, and old events that are scored; a pool does so by itself where keep_s is set."""
    settings = queue_of(read_settings(config), topic)
    keep_s = settings.keep_s if older_than is None else older_than
    if keep_s is None:
        raise ConfigError("Cannot tell what is old: no keep_s is set. Say it with --older-than.")
    queue, total = open_queue(settings), 0
    while removed := queue.trim(keep_s=keep_s):
        total += removed
    Console().print(f"removed {total} events and outputs")


def find_ray() -> machine.RayPlace:
    """Sets Ray's environment: to be called before Ray is imported, which is when Ray reads it."""
    run_dir = machine.home() / "var" / "run"
    place = machine.find_ray(run_dir, ray_env=_RAY_ENV)
    os.environ.update(place.environ)
    machine.end_orphans(run_dir)
    return place


def _schema(settings: StreamingSettings) -> Schema:
    served = ServedModel.open(Registry.open(settings.registry), settings.model)
    served.close()
    return served.snapshot().schema


def main() -> None:
    """A ZaphodError is one sentence on standard error and exit code 1."""
    try:
        app()
    except ZaphodError as error:
        Console(stderr=True).print(error.message, style="red", soft_wrap=True, highlight=False, markup=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
