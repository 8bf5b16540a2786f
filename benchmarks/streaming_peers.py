"""What bench_streaming.py runs beside the scorer, on the same queue and model."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable

import msgspec
import pandas as pd
from threadpoolctl import threadpool_limits

from examples import transactions
from streaming.queues.base import Consumer, Event, MicroBatch, Output, Queue
from streaming.queues.factory import open_queue
from streaming.settings import QueueSettings
from zaphod.registry import Registry
from zaphod.trust import load_estimator

HAS_BYTEWAX = importlib.util.find_spec("bytewax") is not None


def commit_loop(settings: QueueSettings, registry: str, *, max_events: int) -> float:
    """The ceiling: poll and commit, no decoding, no model, outputs of the usual size. Seconds for the backlog."""
    return consume(settings, lambda batch: [b"x" * 180] * len(batch.events), max_events=max_events)


def plain_consumer(settings: QueueSettings, registry: str, *, max_events: int) -> float:
    """What one writes by hand: the pipeline on so many events at a time, answers committed with their offset."""
    return consume(settings, pipeline(registry), max_events=max_events)


def bytewax_flow(settings: QueueSettings, registry: str, *, max_events: int) -> float:
    """A dataflow with the queue as its source, the pipeline on whole micro-batches, the queue's commit as its sink."""
    import bytewax.operators as op
    from bytewax.dataflow import Dataflow
    from bytewax.inputs import DynamicSource, StatelessSourcePartition
    from bytewax.outputs import DynamicSink, StatelessSinkPartition
    from bytewax.testing import run_main

    queue, consumer = opened(settings)
    answer = pipeline(registry)

    class Source(DynamicSource, StatelessSourcePartition):  # type: ignore[misc]  # not installed where types are checked
        left = backlog(queue)

        def build(self, *_: object) -> Source:
            return self

        def next_batch(self) -> list[MicroBatch]:
            if self.left <= 0:
                raise StopIteration
            batch = consumer.poll(max_events=max_events, wait_s=0)
            self.left -= len(batch.events) if batch else 0
            return [batch] if batch else []

    class Sink(DynamicSink, StatelessSinkPartition):  # type: ignore[misc]  # as above
        def build(self, *_: object) -> Sink:
            return self

        def write_batch(self, items: list[tuple[MicroBatch, list[bytes]]]) -> None:
            for batch, values in items:
                commit(consumer, batch, values)

    flow = Dataflow("bench")
    stream = op.input("in", flow, Source())
    op.output("out", op.map("score", stream, lambda batch: (batch, answer(batch))), Sink())
    began = time.perf_counter()
    run_main(flow)
    seconds = time.perf_counter() - began
    assert backlog(queue) == 0
    consumer.close()
    return seconds


def pipeline(registry: str) -> Callable[[MicroBatch], list[bytes]]:
    """Asks the scikit-learn pipeline about events as one frame.

    In its favour once for label and probabilities, and with one thread: with two, a single row takes up to ten times as
    long on a busy machine.
    """
    threadpool_limits(1)
    estimator = load_estimator(Registry.open(registry).load("fraud", 1).files["model.skops"])
    names, classes = list(transactions.FEATURES), estimator.classes_
    kinds = {name: "str" if name in transactions.CATEGORIES else "float64" for name in names}

    def answer(batch: MicroBatch) -> list[bytes]:
        rows = [msgspec.json.decode(event.value) for event in batch.events]
        frame = pd.DataFrame(rows, columns=names).astype(kinds)
        probabilities = estimator.predict_proba(frame)
        labels = classes[probabilities.argmax(axis=1)].tolist()
        return [
            msgspec.json.encode({"label": label, "p": p})
            for label, p in zip(labels, probabilities.tolist(), strict=True)
        ]

    return answer


def consume(settings: QueueSettings, answer: Callable[[MicroBatch], list[bytes]], *, max_events: int) -> float:
    """Seconds for the backlog."""
    queue, consumer = opened(settings)
    left = backlog(queue)
    began = time.perf_counter()
    while left > 0:
        batch = consumer.poll(max_events=max_events, wait_s=1.0)
        if batch is not None:
            commit(consumer, batch, answer(batch))
            left -= len(batch.events)
    seconds = time.perf_counter() - began
    consumer.close()
    return seconds


def opened(settings: QueueSettings) -> tuple[Queue, Consumer]:
    """The queue, and a consumer of all its partitions."""
    queue = open_queue(settings)
    consumer = queue.consumer("peer", lease_s=600)
    for partition in range(settings.partitions):
        consumer.acquire(partition, steal=True)
    return queue, consumer


def commit(consumer: Consumer, batch: MicroBatch, values: list[bytes]) -> None:
    """Answers and offset in one."""
    consumer.commit(batch, outputs=list(map(output_of, batch.events, values)), dead_letters=[])


def output_of(event: Event, value: bytes) -> Output:
    """An event's answer."""
    return Output(event.offset, event.id, event.key, value, {}, event.created)


def backlog(queue: Queue) -> int:
    """Events that wait."""
    return sum(position.lag for position in queue.positions())
