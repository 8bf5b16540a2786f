"""Kafka as the queue: transactions of the broker that hold outputs, dead letters and the consumed offset.

Of stream `s`, each topic with the same partitions:

    s.events         written by producers
    s.predictions    outputs
    s.dead-letters   compacted: the key is the letter's place, a message without a value takes it back
    s.state          compacted: who owns the partition until when, generation, attempts (`kafka_wire.State`)

Offsets are those of the consumer group `s`. No consumer joins the group: partitions are assigned by the supervisor, and
the lease is the transactional id `s-<partition>`, whose newest producer fences all earlier ones. So there is no poll
that must not come late, and no rebalance protocol to wait for.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future

import confluent_kafka
import msgspec
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from streaming.queues import kafka_wire as wire
from streaming.queues.base import (
    Commit,
    Cursor,
    DeadEntry,
    DeadLetter,
    Delivered,
    Event,
    Guarantee,
    Lease,
    MicroBatch,
    NewEvent,
    Output,
    Position,
    fenced,
)
from streaming.queues.kafka_topic import CALL_TIMEOUT_S, ClientConfig, TopicReader, translated, unavailable
from streaming.queues.kafka_writer import PartitionWriter, Write
from zaphod.errors import ConfigError, FencedError, QueueUnavailableError

# A wake-up that falls between two waits is noticed after this time.
_LONGEST_WAIT_S = 0.1
_TAIL = 50
# A new owner learns the ids of the window by reading them again: the window is never more events than this.
_MAX_IDS = 20_000
_FETCH_WAIT_MS = 100


class Topics(msgspec.Struct, frozen=True):
    """The names of a stream's topics."""

    events: str
    predictions: str
    dead_letters: str
    state: str

    @classmethod
    def of(cls, name: str) -> Topics:
        return cls(f"{name}.events", f"{name}.predictions", f"{name}.dead-letters", f"{name}.state")


class KafkaQueue:
    """A stream on a Kafka cluster. Not thread-safe."""

    guarantee = Guarantee.EXACTLY_ONCE
    risks: Sequence[str] = ()
    spans_nodes = True

    def __init__(
        self,
        servers: str,
        *,
        name: str,
        num_partitions: int,
        dedupe_window_s: float = 600.0,
        options: Mapping[str, str] | None = None,
    ) -> None:
        """servers: `host:port,…`. options: further settings of the client library.

        Makes the topics that are missing. Raises: ConfigError when one exists with other partitions;
        QueueUnavailableError.
        """
        self._config: dict[str, str | int | float | bool] = {
            "bootstrap.servers": servers,
            "log_level": 2,  # errors are raised where they matter
            "fetch.wait.max.ms": _FETCH_WAIT_MS,
            **(options or {}),
        }
        self._name = name
        self._dedupe_window_s = dedupe_window_s
        self.num_partitions = num_partitions
        self._topics = Topics.of(name)
        _make_topics(AdminClient(self._config), self._topics, num_partitions)
        self._producer = confluent_kafka.Producer({**self._config, "enable.idempotence": True, "linger.ms": 0})
        self._events = TopicReader(self._config, self._topics.events)
        self._outputs = TopicReader(self._config, self._topics.predictions)
        self._letters = TopicReader(self._config, self._topics.dead_letters)
        self._states = StateReader(self._config, self._topics.state)
        self._group = _group_client(self._config, name)
        self._read_to: dict[int, Cursor] = {}
        self._oldest: dict[int, tuple[int, float]] = {}

    def produce(self, events: Sequence[NewEvent]) -> int:
        """Repeated ids are dropped when they are consumed: other producers write to the topic as well."""
        self._send(
            functools.partial(
                self._producer.produce, self._topics.events, value=event.value, key=event.key,
                headers=wire.headers_of_event(event), partition=event.partition(self.num_partitions),
            )
            for event in events
        )  # fmt: skip
        return len(events)

    def consumer(self, owner: str, *, lease_s: float) -> KafkaConsumer:
        return KafkaConsumer(
            self._config, name=self._name, owner=owner, lease_s=lease_s, dedupe_window_s=self._dedupe_window_s
        )

    def positions(self) -> list[Position]:
        now = time.time()
        committed = _committed(self._group, self._topics.events, range(self.num_partitions))
        return [self._position(partition, committed[partition], now) for partition in range(self.num_partitions)]

    def read_outputs(self, cursors: Mapping[int, Cursor], *, max_outputs: int) -> list[Delivered]:
        found: list[Delivered] = []
        for partition, cursor in cursors.items():
            if len(found) >= max_outputs:
                break
            low, high = self._outputs.ends(partition)
            if self._read_to.get(partition) != cursor or not self._outputs.follows(partition):
                self._outputs.go_to(partition, low)
            while len(found) < max_outputs:
                messages = self._outputs.read(partition, up_to=high, most=max_outputs - len(found))
                if not messages:
                    break
                for delivered in map(wire.to_delivered, messages):
                    if _is_after(delivered.cursor, cursor):
                        found.append(delivered)
                        cursor = delivered.cursor
            self._read_to[partition] = cursor
        return found

    def output_ends(self) -> dict[int, Cursor]:
        ends = {}
        for partition in range(self.num_partitions):
            _, high = self._outputs.ends(partition)
            newest = _newest(self._outputs, partition)
            ends[partition] = Cursor() if newest is None else wire.to_delivered(newest).cursor
            self._outputs.go_to(partition, high)
            self._read_to[partition] = ends[partition]
        return ends

    def wait_outputs(self, *, timeout_s: float) -> bool:
        if not self._read_to:
            self.output_ends()
            return True  # whatever was committed before the first wait
        return self._outputs.wait(timeout_s=timeout_s)

    def read_dead_letters(self, cursors: Mapping[int, Cursor], *, max_letters: int) -> list[DeadEntry]:
        found: list[DeadEntry] = []
        for partition, cursor in cursors.items():
            places = (place for place in self._letters_of(partition) if _is_after(place.cursor, cursor))
            found.extend(itertools.islice(places, max_letters - len(found)))
        return found

    def drop_dead_letter(self, partition: int, cursor: Cursor) -> bool:
        if all(entry.cursor != cursor for entry in self._letters_of(partition)):
            return False
        key, topic = wire.name_of(cursor), self._topics.dead_letters
        self._send([functools.partial(self._producer.produce, topic, key=key, value=None, partition=partition)])
        return True

    def replay(self, partition: int, *, offset: int) -> int:
        writer = _open_writer(self._config, self._name, partition, self._topics.events, self._group)
        with contextlib.closing(writer):
            # Read now: from here on nobody else can write.
            state = self._states.newest(partition)
            low, _ = self._events.ends(partition)
            committed = _committed(self._group, self._topics.events, [partition])[partition] or 0
            goes_on = max(low, min(offset, committed))
            moved = wire.State(generation=state.generation + 1, epoch=state.epoch + 1)
            writer.write("replay", [_state_write(self._topics, moved)], next_offset=goes_on)
        return goes_on

    def trim(self, *, keep_s: float) -> int:
        raise ConfigError("Cannot remove what is old: with Kafka the brokers do. Set retention.ms of the topics.")

    def close(self) -> None:
        for reader in (self._events, self._outputs, self._letters, self._states, self._group):
            reader.close()

    def _send(self, messages: Iterable[Callable[..., None]]) -> None:
        """Returns when the brokers have them all: what is no longer in the client may also have been given up.

        messages: calls of the producer. Raises: QueueUnavailableError, ConfigError.
        """
        failed: list[KafkaError] = []

        def delivered(error: KafkaError | None, _: object) -> None:
            if error is not None:
                failed.append(error)

        for send in messages:
            try:
                send(on_delivery=delivered)
            except BufferError:
                self._producer.flush(CALL_TIMEOUT_S)
                send(on_delivery=delivered)
        left = self._producer.flush(CALL_TIMEOUT_S)
        if left or failed:
            self._producer.purge()
            self._producer.flush(CALL_TIMEOUT_S)
            if failed:
                raise unavailable(failed[0])
            raise QueueUnavailableError("Cannot use the Kafka cluster: it does not answer. It is tried again.")

    def _position(self, partition: int, committed: int | None, now: float) -> Position:
        low, end = self._events.ends(partition)
        next_offset = max(low, committed or 0)
        state = self._states.newest(partition)
        return Position(
            partition=partition,
            next_offset=next_offset,
            end_offset=max(end, next_offset),
            owner=state.owner,
            epoch=state.epoch,
            expired=state.expires < now,
            oldest_s=0.0 if end <= next_offset else max(0.0, now - self._created(partition, next_offset, end)),
        )

    def _created(self, partition: int, offset: int, end: int) -> float:
        """When the event at the offset, or the next one after it, was made."""
        known = self._oldest.get(partition)
        if known is None or known[0] != offset:
            self._events.go_to(partition, offset)
            messages = self._events.read(partition, up_to=end, most=1)
            known = (offset, wire.to_event(messages[0]).created if messages else time.time())
            self._oldest[partition] = known
        return known[1]

    def _letters_of(self, partition: int) -> list[DeadEntry]:
        """All that were not taken back, oldest first."""
        low, high = self._letters.ends(partition)
        self._letters.go_to(partition, low)
        found: dict[bytes, DeadEntry] = {}
        for message in self._letters.read(partition, up_to=high, most=high - low):
            key = message.key or b""
            if message.value is None:
                found.pop(key, None)
            else:
                found.setdefault(key, wire.to_dead_entry(message))
        return list(found.values())


class KafkaConsumer:
    """Made by `KafkaQueue.consumer`; clients of its own."""

    def __init__(self, config: ClientConfig, *, name: str, owner: str, lease_s: float, dedupe_window_s: float) -> None:
        self._config = config
        self._name = name
        self._owner = owner
        self._lease_s = lease_s
        self._dedupe_window_s = dedupe_window_s
        self._topics = Topics.of(name)
        self._client = _group_client(config, name)
        self._states = StateReader(config, self._topics.state)
        self._past = TopicReader(config, self._topics.events)
        self._held: dict[int, _Held] = {}
        self._turn: list[int] = []
        self._woken = threading.Event()

    @property
    def partitions(self) -> frozenset[int]:
        return frozenset(self._held)

    def acquire(self, partition: int, *, steal: bool = False) -> Lease | None:
        now = time.time()
        before = self._states.newest(partition)
        if not steal and before.owner not in (None, self._owner) and before.expires >= now:
            return None
        writer = _open_writer(self._config, self._name, partition, self._topics.events, self._group_metadata())
        # Read once more: from here on nobody else can write.
        before = self._states.newest(partition)
        low, _ = self._past.ends(partition)
        next_offset = max(low, _committed(self._client, self._topics.events, [partition])[partition] or 0)
        state = msgspec.structs.replace(before, epoch=before.epoch + 1, owner=self._owner, expires=now + self._lease_s)
        try:
            writer.write("acquire", [_state_write(self._topics, state)], next_offset=None)
        except FencedError:
            writer.close()
            return None
        self._forget(partition)
        with translated():
            self._client.incremental_assign([TopicPartition(self._topics.events, partition, next_offset)])
        ids = recent_ids(self._past, partition, next_offset, window_s=self._dedupe_window_s)
        self._held[partition] = _Held(writer, state, next_offset, ids)
        self._turn.append(partition)
        return Lease(
            partition=partition,
            epoch=state.epoch,
            next_offset=next_offset,
            clean=before.owner is None,
            attempts=before.attempts if before.tried == next_offset else 0,
        )

    def release(self, partition: int) -> None:
        held = self._held.get(partition)
        if held is not None:
            with contextlib.suppress(FencedError), held.lock:
                free = msgspec.structs.replace(held.state, owner=None, expires=0.0, tried=-1)
                held.writer.write("release", [_state_write(self._topics, free)], next_offset=None)
            self._forget(partition)

    def renew(self) -> None:
        for held in list(self._held.values()):
            with held.lock:
                if held.in_doubt:
                    continue
                state = msgspec.structs.replace(held.state, expires=time.time() + self._lease_s)
                try:
                    held.writer.write("renew", [_state_write(self._topics, state)], next_offset=None)
                except FencedError:
                    held.lost = True
                    self.wake()
                else:
                    held.state = state

    def poll(self, *, max_events: int, wait_s: float) -> MicroBatch | None:
        deadline = time.monotonic() + wait_s
        self._woken.clear()
        fetch_s = 0.0  # first whatever has come meanwhile: it makes the batch larger
        while True:
            self._drop_lost()
            came = self._fetch(max_events, wait_s=fetch_s)
            batch = self._waiting(max_events)
            left_s = deadline - time.monotonic()
            if batch is not None or (not came and (left_s <= 0 or self._woken.is_set())):
                return batch
            fetch_s = max(0.0, min(left_s, _LONGEST_WAIT_S))

    def poll_others(self, batch: MicroBatch, *, max_events: int) -> list[MicroBatch]:
        return []  # a transaction takes so long that what the others have meanwhile is better left to come

    def commit(self, batch: MicroBatch, *, outputs: Sequence[Output], dead_letters: Sequence[DeadLetter]) -> None:
        held = self._held.get(batch.partition)
        if held is None or held.lost or held.state.epoch != batch.epoch:
            raise fenced(batch.partition)
        if batch.next_offset <= held.next_offset:
            return
        generation = held.state.generation
        writes = [
            *(self._output_write(each, Cursor(generation, each.offset)) for each in sorted(outputs, key=_offset_of)),
            *(
                self._letter_write(each, Cursor(generation, each.offset))
                for each in sorted(dead_letters, key=_offset_of)
            ),
        ]
        self._write(held, batch, ("commit", batch.first, batch.next_offset), writes, held.after(batch.next_offset))

    def commit_all(self, commits: Sequence[Commit]) -> list[bool]:
        done: list[bool] = []
        for each in commits:
            try:
                self.commit(each.batch, outputs=each.outputs, dead_letters=each.dead_letters)
            except FencedError:
                done.append(False)
            else:
                done.append(True)
        return done

    def note_attempt(self, batch: MicroBatch, *, attempts: int) -> None:
        held = self._held.get(batch.partition)
        if held is None or held.lost or held.state.epoch != batch.epoch:
            raise fenced(batch.partition)
        if batch.first < held.next_offset:
            raise fenced(batch.partition)
        state = msgspec.structs.replace(held.state, tried=batch.first, attempts=attempts)
        self._write(held, batch, ("note", batch.first, attempts), [_state_write(self._topics, state)], None)
        held.state = state

    def wake(self) -> None:
        self._woken.set()

    def close(self) -> None:
        for partition in list(self._held):
            with contextlib.suppress(QueueUnavailableError):
                self.release(partition)
            self._forget(partition)
        for client in (self._client, self._states, self._past):
            client.close()

    def _write(
        self, held: _Held, batch: MicroBatch, token: tuple[object, ...], writes: list[Write], next_offset: int | None
    ) -> None:
        try:
            with held.lock:
                if held.in_doubt and self._is_taken(batch.partition, held):
                    raise fenced(batch.partition)
                held.in_doubt = True  # until it is over the lease cannot be renewed; by then it has been
                held.writer.write(token, writes, next_offset=next_offset)
                held.in_doubt = False
        except FencedError:
            self._forget(batch.partition)
            raise
        if next_offset is not None:
            held.move_to(next_offset)

    def _is_taken(self, partition: int, held: _Held) -> bool:
        """By another. A broker may leave it unsaid: the commit of one who was fenced then never ends."""
        return self._states.newest(partition).epoch != held.state.epoch

    def _waiting(self, max_events: int) -> MicroBatch | None:
        """What has been fetched of the partition whose turn it is."""
        for partition in list(self._turn):
            held = self._held[partition]
            if held.events:
                self._turn.remove(partition)
                self._turn.append(partition)
                events = list(itertools.islice(held.events, max_events))
                return MicroBatch(partition=partition, epoch=held.state.epoch, events=events)
            if held.fetched > held.next_offset:
                self._pass_over(partition, held)
        return None

    def _pass_over(self, partition: int, held: _Held) -> None:
        """Repeated events alone: nothing to answer, but they are done with."""
        nothing = MicroBatch(partition=partition, epoch=held.state.epoch, events=[])
        # Some message goes along: not every broker keeps the offset of a transaction that wrote nothing.
        state = _state_write(self._topics, held.state)
        with contextlib.suppress(FencedError):
            self._write(held, nothing, ("pass over", held.fetched), [state], held.fetched)

    def _fetch(self, max_events: int, *, wait_s: float) -> bool:
        if not self._held:
            self._woken.wait(wait_s)
            return False
        with translated():
            first = self._client.poll(wait_s)
            messages = [] if first is None else [first, *self._client.consume(max_events, timeout=0)]
        for message in messages:
            error = message.error()
            if error is None:
                record = wire.to_record(message)
                held = self._held.get(record.partition)
                if held is not None:
                    held.take(record, window_s=self._dedupe_window_s)
            elif not error.retriable():
                raise unavailable(error)
        return bool(messages)

    def _group_metadata(self) -> object:
        return self._client.consumer_group_metadata()

    def _output_write(self, output: Output, cursor: Cursor) -> Write:
        key = None if output.key is None else output.key.encode()
        return Write(self._topics.predictions, output.value, key, wire.headers_of_output(output, cursor))

    def _letter_write(self, letter: DeadLetter, cursor: Cursor) -> Write:
        headers = wire.headers_of_letter(letter, cursor)
        return Write(self._topics.dead_letters, letter.value, wire.name_of(cursor), headers)

    def _drop_lost(self) -> None:
        for partition in [partition for partition, held in self._held.items() if held.lost]:
            self._forget(partition)

    def _forget(self, partition: int) -> None:
        held = self._held.pop(partition, None)
        if held is not None:
            self._turn.remove(partition)
            held.writer.close()
            with translated():
                self._client.incremental_unassign([TopicPartition(self._topics.events, partition)])


class StateReader:
    """Knows the newest state of each partition."""

    def __init__(self, config: ClientConfig, topic: str) -> None:
        self._reader = TopicReader(config, topic)
        self._states: dict[int, wire.State] = {}

    def newest(self, partition: int) -> wire.State:
        """As it is now. Raises: QueueUnavailableError."""
        if partition not in self._states:
            newest = _newest(self._reader, partition)
            messages = [] if newest is None else [newest]
        else:
            _, high = self._reader.ends(partition)
            messages = self._reader.read(partition, up_to=high, most=1_000_000)
        state = self._states.get(partition, wire.State())
        for message in messages:
            if message.value is not None:
                state = msgspec.json.decode(message.value, type=wire.State)
        self._states[partition] = state
        return state

    def close(self) -> None:
        self._reader.close()


def recent_ids(past: TopicReader, partition: int, next_offset: int, *, window_s: float) -> RecentIds:
    """The ids of the window, as the owner before knew them: up to when the event that comes next was written."""
    ids = RecentIds()
    low, high = past.ends(partition)
    comes: list[wire.Record] = []
    if next_offset < high:
        past.go_to(partition, next_offset)
        comes = past.read(partition, up_to=high, most=1)
    # With a backlog, and after a replay, that is not now.
    now = comes[0].written if comes else time.time()
    start = max(past.since(partition, seconds=now - window_s), next_offset - _MAX_IDS, low)
    if start < next_offset:
        past.go_to(partition, start)
        for record in past.read(partition, up_to=next_offset, most=_MAX_IDS):
            ids.is_new(record, window_s=window_s)
    return ids


class RecentIds:
    """Ids of the last events of a partition, within the window."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._order: deque[tuple[float, str]] = deque()

    def is_new(self, record: wire.Record, *, window_s: float) -> bool:
        """Notes it."""
        while self._order and (self._order[0][0] < record.written - window_s or len(self._order) >= _MAX_IDS):
            self._ids.discard(self._order.popleft()[1])
        identifier = wire.id_of_event(record)
        if identifier in self._ids:
            return False
        self._ids.add(identifier)
        self._order.append((record.written, identifier))
        return True


class _Held:
    """A partition while its lease is ours. events: fetched, not committed; fetched: the offset after them."""

    __slots__ = ("events", "fetched", "ids", "in_doubt", "lock", "lost", "next_offset", "state", "writer")

    def __init__(self, writer: PartitionWriter, state: wire.State, next_offset: int, ids: RecentIds) -> None:
        self.writer = writer
        self.state = state
        self.next_offset = self.fetched = next_offset
        self.ids = ids
        self.events: deque[Event] = deque()
        self.lock = threading.Lock()
        self.in_doubt = False
        self.lost = False

    def take(self, record: wire.Record, *, window_s: float) -> None:
        if record.offset >= self.fetched:
            self.fetched = record.offset + 1
            if self.ids.is_new(record, window_s=window_s):
                self.events.append(wire.to_event(record))

    def after(self, offset: int) -> int:
        """Where a commit up to the offset goes on: past repeated events that follow."""
        return next((event.offset for event in self.events if event.offset >= offset), self.fetched)

    def move_to(self, offset: int) -> None:
        self.next_offset = offset
        while self.events and self.events[0].offset < offset:
            self.events.popleft()


def _open_writer(config: ClientConfig, name: str, partition: int, events: str, group: object) -> PartitionWriter:
    metadata = group.consumer_group_metadata() if isinstance(group, confluent_kafka.Consumer) else group
    return PartitionWriter(config, name=f"{name}-{partition}", partition=partition, events=events, group=metadata)


def _group_client(config: ClientConfig, name: str) -> confluent_kafka.Consumer:
    """Reads and commits as the group, without being a member of it."""
    return confluent_kafka.Consumer(
        {
            **config,
            "group.id": name,
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "fetch.queue.backoff.ms": 10,
        }
    )


def _committed(client: confluent_kafka.Consumer, topic: str, partitions: Iterable[int]) -> dict[int, int | None]:
    asked = [TopicPartition(topic, partition) for partition in partitions]
    with translated():
        found = client.committed(asked, timeout=CALL_TIMEOUT_S)
    return {place.partition: int(place.offset) if place.offset >= 0 else None for place in found}


def _newest(reader: TopicReader, partition: int) -> wire.Record | None:
    """The last committed message; the reader stands behind it. Markers of transactions count as offsets too."""
    low, high = reader.ends(partition)
    step, start = _TAIL, high
    while start > low:
        start = max(low, high - step)
        reader.go_to(partition, start)
        messages = reader.read(partition, up_to=high, most=step)
        if messages:
            return messages[-1]
        step *= 10
    reader.go_to(partition, high)
    return None


def _state_write(topics: Topics, state: wire.State) -> Write:
    return Write(topics.state, msgspec.json.encode(state), key=b"state")


def _offset_of(record: Output | DeadLetter) -> int:
    return record.offset


def _is_after(cursor: Cursor, other: Cursor) -> bool:
    return (cursor.generation, cursor.offset) > (other.generation, other.offset)


def _make_topics(admin: AdminClient, topics: Topics, num_partitions: int) -> None:
    with translated():
        existing = admin.list_topics(timeout=CALL_TIMEOUT_S).topics
    names = msgspec.structs.astuple(topics)
    for name in names:
        if name in existing and len(existing[name].partitions) != num_partitions:
            raise ConfigError(
                f"Cannot open the stream with {num_partitions} partitions: the topic {name} has "
                f"{len(existing[name].partitions)}, and keys would change places. Use that number, or another name."
            )
    compacted = {topics.state, topics.dead_letters}
    missing = [
        NewTopic(name, num_partitions, config={"cleanup.policy": "compact"} if name in compacted else {})
        for name in names
        if name not in existing
    ]
    made: dict[str, Future[None]] = admin.create_topics(missing, operation_timeout=CALL_TIMEOUT_S) if missing else {}
    for future in made.values():
        try:
            future.result(CALL_TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise unavailable(error.args[0]) from error
