"""The networked queue: Redis Streams (7.0 and later, Valkey too), for scorers on many nodes.

Of partition 3 of stream `s`, all in one slot:

    {s:3}:in     stream of events; the id `<offset + 1>-0` is the offset, so nothing else has to be kept
    {s:3}:out    stream of outputs, ids `<generation + 1>-<offset + 1>`
    {s:3}:dead   stream of dead letters, ids likewise
    {s:3}:state  hash: next, epoch, owner, expires, generation, tried, attempts
    {s:3}:head   the next offset to append; {s:3}:id:<id> an event's id for as long as repeats are dropped
    {s:3}:marks  sorted set: how far the partition had come at some moments, for what is removed when it is old
    {s:3}:gone   the id of the newest output that was removed

What belongs together is one Lua script. Redis does not roll a script back: each checks everything before it writes,
writes outputs before it moves the offset, and skips outputs that are there, so that doing it again is harmless.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import redis
import redis.exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from streaming.queues.base import (
    NO_HEADERS,
    Cause,
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
    check_kept,
    fenced,
)
from zaphod.errors import ConfigError, QueueUnavailableError

_SOCKET_TIMEOUT_S = 5.0
# Outputs of a partition that one wait brings at most.
_READ_AHEAD = 250
# Of an event in a script's arguments.
_FIELDS = 6
# A wake-up that falls between two waits is noticed after this time.
_LONGEST_WAIT_S = 0.2
# Another one each time a server starts.
_RUN_ID = re.compile(rb"run_id:(\w+)")

_NOW = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"

# Of several partitions in one call: a round trip each, and its share of the server, cost more than what it does.
# KEYS: in, head of each; ARGV: window in ms, then for each the prefix of id keys and the number of events, then id,
# key, headers, created, value and whether there is a key for each event.
_PRODUCE = """
local added, i = 0, 2
for k = 1, #KEYS, 2 do
  local head = tonumber(redis.call('GET', KEYS[k + 1]) or '0')
  local prefix, num = ARGV[i], tonumber(ARGV[i + 1])
  i = i + 2
  for _ = 1, num do
    if redis.call('SET', prefix .. ARGV[i], '1', 'NX', 'PX', ARGV[1]) then
      head = head + 1
      redis.call('XADD', KEYS[k], head .. '-0', 'i', ARGV[i], 'k', ARGV[i + 1], 'h', ARGV[i + 2],
                 'c', ARGV[i + 3], 'v', ARGV[i + 4], 'n', ARGV[i + 5])
      added = added + 1
    end
    i = i + 6
  end
  redis.call('SET', KEYS[k + 1], head)
end
return added
"""

# KEYS: state; ARGV: owner, time to live in ms, 1 to steal, an epoch that is over.
_ACQUIRE = (
    _NOW
    + """
local s = redis.call('HMGET', KEYS[1], 'owner', 'expires', 'next', 'tried', 'attempts', 'epoch')
local owner = s[1] or ''
if owner ~= '' and owner ~= ARGV[1] and tonumber(s[2] or '0') >= now and ARGV[3] ~= '1' then return false end
local epoch = math.max(tonumber(s[6] or '0'), tonumber(ARGV[4])) + 1
local next = s[3] or '0'
redis.call('HSET', KEYS[1], 'epoch', epoch, 'owner', ARGV[1], 'expires', now + ARGV[2], 'next', next)
local attempts = '0'
if s[4] == next then attempts = s[5] or '0' end
return {epoch, tonumber(next), owner == '' and 1 or 0, tonumber(attempts)}
"""
)

# KEYS: state; ARGV: epoch, time to live in ms; 0 when the lease is another's.
_RENEW = (
    _NOW
    + """
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'expires', now + ARGV[2])
return 1
"""
)

# KEYS: state; ARGV: epoch.
_RELEASE = """
if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] then
  redis.call('HSET', KEYS[1], 'owner', '', 'expires', '0', 'tried', '-1')
end
return 1
"""

# KEYS: state; ARGV: epoch, first offset, attempts.
_NOTE = """
local s = redis.call('HMGET', KEYS[1], 'epoch', 'next')
if s[1] ~= ARGV[1] or s[2] ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'tried', ARGV[2], 'attempts', ARGV[3])
return 1
"""

# Of several partitions in one call, each for itself.
# KEYS: state, out, dead of each; ARGV: now, then for each epoch, first, next, number of outputs, number of dead
# letters, offset and 5 fields for each output, offset and 9 fields for each dead letter.
_COMMIT = """
local function last(key, generation)
  local newest = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)
  if #newest == 0 then return 0 end
  local g, o = string.match(newest[1][1], '(%d+)-(%d+)')
  if tonumber(g) == generation then return tonumber(o) end
  return 0
end
local function commit(k, at, num_outputs, num_letters)
  local s = redis.call('HMGET', KEYS[k], 'epoch', 'next', 'generation')
  if s[1] ~= ARGV[at] then return 0 end
  if s[2] == ARGV[at + 2] then return 1 end
  if s[2] ~= ARGV[at + 1] then return 0 end
  local generation, i = tonumber(s[3] or '0') + 1, at + 5
  local done = num_outputs > 0 and last(KEYS[k + 1], generation)
  for _ = 1, num_outputs do
    local o = tonumber(ARGV[i]) + 1
    if o > done then
      redis.call('XADD', KEYS[k + 1], generation .. '-' .. o, 'i', ARGV[i + 1], 'k', ARGV[i + 2], 'h', ARGV[i + 3],
                 'c', ARGV[i + 4], 'v', ARGV[i + 5], 't', ARGV[1])
    end
    i = i + 6
  end
  done = num_letters > 0 and last(KEYS[k + 2], generation)
  for _ = 1, num_letters do
    local o = tonumber(ARGV[i]) + 1
    if o > done then
      redis.call('XADD', KEYS[k + 2], generation .. '-' .. o, 'i', ARGV[i + 1], 'k', ARGV[i + 2], 'h', ARGV[i + 3],
                 'c', ARGV[i + 4], 'v', ARGV[i + 5], 'w', ARGV[i + 6], 'r', ARGV[i + 7], 'a', ARGV[i + 8],
                 'm', ARGV[i + 9])
    end
    i = i + 10
  end
  redis.call('HSET', KEYS[k], 'next', ARGV[at + 2], 'tried', '-1')
  return 1
end
local at, done = 2, {}
for k = 1, #KEYS, 3 do
  local num_outputs, num_letters = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  done[#done + 1] = commit(k, at, num_outputs, num_letters)
  at = at + 5 + 6 * num_outputs + 10 * num_letters
end
return done
"""

# KEYS: state, in, head; ARGV: offset; returns where it goes on.
_REPLAY = """
local next = redis.call('HGET', KEYS[1], 'next') or '0'
local oldest = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
local first = redis.call('GET', KEYS[3]) or '0'
if oldest then first = string.match(oldest[1], '%d+') - 1 end
if tonumber(ARGV[1]) < tonumber(next) then next = math.max(first, ARGV[1]) end
redis.call('HINCRBY', KEYS[1], 'generation', 1)
redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('HSET', KEYS[1], 'next', next, 'owner', '', 'tried', '-1')
return tonumber(next)
"""

# KEYS: state, in, out, marks, gone; ARGV: age in ms. Nothing says when an event was committed that has no output: each
# call notes how far the partition has come, and removes up to the newest note that is old enough.
_TRIM = (
    _NOW
    + """
-- First a command that frees: a server whose memory is full lets the rest of a script pass once it has begun to write.
redis.call('XTRIM', KEYS[2], 'MINID', '0')
local s = redis.call('HMGET', KEYS[1], 'next', 'generation')
local next, generation = tonumber(s[1] or '0'), tonumber(s[2] or '0') + 1
redis.call('ZADD', KEYS[4], now, now .. ' ' .. generation .. '-' .. next)
local before = now - ARGV[1]
local note = redis.call('ZREVRANGEBYSCORE', KEYS[4], before, '-inf', 'LIMIT', 0, 1)[1]
if not note then return 0 end
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', before)
local last, done = string.match(note, '(%d+%-(%d+))$')
local newest = redis.call('XREVRANGE', KEYS[3], last, '-', 'COUNT', 1)[1]
local removed = 0
if newest then
  local g, o = string.match(newest[1], '(%d+)-(%d+)')
  redis.call('SET', KEYS[5], newest[1])
  removed = redis.call('XTRIM', KEYS[3], 'MINID', g .. '-' .. (o + 1))
end
-- A replay may have gone back since.
return removed + redis.call('XTRIM', KEYS[2], 'MINID', (math.min(done, next) + 1) .. '-0')
"""
)


class RedisQueue:
    """A stream on a Redis server. Not for Redis Cluster: one command reads several partitions."""

    guarantee = Guarantee.EXACTLY_ONCE
    spans_nodes = True

    def __init__(self, url: str, *, name: str, num_partitions: int, dedupe_window_s: float = 600.0) -> None:
        """Makes the stream when it is new.

        Raises: ConfigError when it exists with other partitions, or the server may evict keys; QueueUnavailableError.
        """
        self._url = url
        self._name = name
        self._dedupe_window_s = dedupe_window_s
        self.num_partitions = num_partitions
        self._client = _connect(url)
        self._seen: dict[int, Cursor] = {}
        # What ended the last wait: after which places, and the rows.
        self._waited: tuple[dict[str, str], Any] | None = None
        with _translated():
            info = self._client.info()
            _check_server(info)
            _check_partitions(self._client, name, num_partitions)
            self.risks: Sequence[str] = _risks(info, self._client)
        self._produce = self._client.register_script(_PRODUCE)
        self._replay = self._client.register_script(_REPLAY)
        self._trim = self._client.register_script(_TRIM)

    def produce(self, events: Sequence[NewEvent]) -> int:
        by_partition: dict[int, list[Any]] = {}
        for event in events:
            mine = by_partition.setdefault(event.partition(self.num_partitions), [])
            mine += (event.id, event.key or "", _packed(event.headers), repr(event.created), event.value)
            mine.append(0 if event.key is None else 1)
        keys: list[str] = []
        arguments: list[Any] = [max(1, int(self._dedupe_window_s * 1000))]
        for partition, fields in by_partition.items():
            keys += (self._key(partition, "in"), self._key(partition, "head"))
            arguments += (f"{self._key(partition, 'id')}:", len(fields) // _FIELDS)
            arguments += fields
        with _translated():
            return int(self._produce(keys=keys, args=arguments)) if keys else 0

    def consumer(self, owner: str, *, lease_s: float) -> RedisConsumer:
        return RedisConsumer(self._url, name=self._name, owner=owner, lease_s=lease_s)

    def positions(self) -> list[Position]:
        with _translated(), self._client.pipeline(transaction=False) as pipeline:
            pipeline.time()
            for partition in range(self.num_partitions):
                fields = ("next", "epoch", "owner", "expires")
                pipeline.hmget(self._key(partition, "state"), fields)
                pipeline.get(self._key(partition, "head"))
            seconds, *found = pipeline.execute()
            now = seconds[0] + seconds[1] / 1e6
            states = [(_state(found[2 * p]), int(found[2 * p + 1] or 0)) for p in range(self.num_partitions)]
            for partition, (state, _) in enumerate(states):
                begin = f"{state[0] + 1}-0"
                pipeline.xrange(self._key(partition, "in"), min=begin, count=1)
            oldest = pipeline.execute()
        return [
            Position(
                partition=partition,
                next_offset=next_offset,
                end_offset=end,
                owner=owner,
                epoch=epoch,
                expired=expires < now * 1000,
                oldest_s=max(0.0, now - float(oldest[partition][0][1][b"c"])) if oldest[partition] else 0.0,
            )
            for partition, ((next_offset, epoch, owner, expires), end) in enumerate(states)
        ]

    def read_outputs(self, cursors: Mapping[int, Cursor], *, max_outputs: int) -> list[Delivered]:
        streams = {self._key(partition, "out"): _output_id(cursor) for partition, cursor in cursors.items()}
        found: list[Delivered] = []
        if not streams:
            return found
        marks = [self._key(partition, "gone") for partition in cursors]
        waited, self._waited = self._waited, None
        with _translated():
            if waited is not None and waited[0] == streams:
                read, gone = waited[1], self._client.mget(marks)
            else:
                with self._client.pipeline(transaction=False) as pipeline:
                    # So many of each partition that all together are not more than was asked for, if each has one.
                    pipeline.xread(streams, count=max(1, max_outputs // len(streams)))
                    pipeline.mget(marks)  # asked last, as above: nothing goes unseen
                    read, gone = pipeline.execute()
        for (partition, cursor), identifier in zip(cursors.items(), gone, strict=True):
            check_kept(partition, cursor, _cursor(identifier) if identifier else None)
        for key, rows in read or ():
            partition = _partition(key)
            found.extend(_delivered(partition, row) for row in rows[: max_outputs - len(found)])
        self._seen = {**cursors, **{delivered.partition: delivered.cursor for delivered in found}}
        return found

    def output_ends(self) -> dict[int, Cursor]:
        with _translated():
            ends = [
                self._client.xrevrange(self._key(partition, "out"), count=1) for partition in range(self.num_partitions)
            ]
        return {partition: _cursor(rows[0][0]) if rows else Cursor() for partition, rows in enumerate(ends)}

    def wait_outputs(self, *, timeout_s: float) -> bool:
        if not self._seen:
            self._seen = self.output_ends()
        streams = {self._key(partition, "out"): _output_id(cursor) for partition, cursor in self._seen.items()}
        deadline = time.monotonic() + timeout_s
        while True:
            left_s = min(deadline - time.monotonic(), _SOCKET_TIMEOUT_S / 2)
            with _translated():
                found = self._client.xread(streams, count=_READ_AHEAD, block=max(1, int(left_s * 1000)))
            # Kept for who reads now: to ask again takes another round trip.
            self._waited = (streams, found) if found else None
            if found or time.monotonic() >= deadline:
                return bool(found)

    def read_dead_letters(self, cursors: Mapping[int, Cursor], *, max_letters: int) -> list[DeadEntry]:
        found: list[DeadEntry] = []
        for partition, cursor in cursors.items():
            with _translated():
                begin = f"({_output_id(cursor)}"
                count = max_letters - len(found)
                rows = self._client.xrange(self._key(partition, "dead"), min=begin, count=count) if count > 0 else []
            found.extend(DeadEntry(partition, _cursor(row[0]), _dead_letter(row)) for row in rows)
        return found

    def drop_dead_letter(self, partition: int, cursor: Cursor) -> bool:
        with _translated():
            return bool(self._client.xdel(self._key(partition, "dead"), _output_id(cursor)))

    def replay(self, partition: int, *, offset: int) -> int:
        with _translated():
            keys = [self._key(partition, what) for what in ("state", "in", "head")]
            return int(self._replay(keys=keys, args=[offset]))

    def trim(self, *, keep_s: float) -> int:
        removed = 0
        for partition in range(self.num_partitions):
            keys = [self._key(partition, what) for what in ("state", "in", "out", "marks", "gone")]
            with _translated():
                removed += int(self._trim(keys=keys, args=[int(keep_s * 1000)]))
        return removed

    def close(self) -> None:
        self._client.close()

    def _key(self, partition: int, what: str) -> str:
        return _key(self._name, partition, what)


class RedisConsumer:
    """Made by `RedisQueue.consumer`; connections of its own.

    A server that was started again may have lost the newest of what it had acknowledged: other events may stand at the
    offsets of those that were polled, and an epoch may be given out twice. So nothing that was taken from one server is
    committed to another: each connection is asked which it leads to.
    """

    def __init__(self, url: str, *, name: str, owner: str, lease_s: float) -> None:
        self._name = name
        self._owner = owner
        self._lease_ms = max(1, int(lease_s * 1000))
        self._server: bytes | None = None
        self._restarted = False
        self._client = _connect(url, greet=self._greet)
        self._renewer = _connect(url)
        self._acquire = self._client.register_script(_ACQUIRE)
        self._release = self._client.register_script(_RELEASE)
        self._note = self._client.register_script(_NOTE)
        self._commit = self._client.register_script(_COMMIT)
        self._renew = self._renewer.register_script(_RENEW)
        self._held: dict[int, _Held] = {}
        self._turn: list[int] = []
        self._woken = threading.Event()

    @property
    def partitions(self) -> frozenset[int]:
        return frozenset(self._held)

    def acquire(self, partition: int, *, steal: bool = False) -> Lease | None:
        # A server that forgot epochs must not give one out again.
        over = self._held[partition].epoch if partition in self._held else 0
        with _translated():
            taken = self._acquire(
                keys=[self._key(partition, "state")], args=[self._owner, self._lease_ms, 1 if steal else 0, over]
            )
        if taken is None:
            return None
        epoch, next_offset, clean, attempts = (int(value) for value in taken)
        self._forget(partition)
        self._held[partition] = _Held(epoch, next_offset)
        self._turn.append(partition)
        return Lease(partition, epoch, next_offset, clean=bool(clean), attempts=attempts)

    def release(self, partition: int) -> None:
        held = self._held.get(partition)
        if held is not None:
            with _translated():
                self._release(keys=[self._key(partition, "state")], args=[held.epoch])
            self._forget(partition)

    def renew(self) -> None:
        with _translated():
            for partition, held in list(self._held.items()):
                if not int(self._renew(keys=[self._key(partition, "state")], args=[held.epoch, self._lease_ms])):
                    held.lost = True

    def poll(self, *, max_events: int, wait_s: float) -> MicroBatch | None:
        deadline = time.monotonic() + wait_s
        self._woken.clear()
        while True:
            self._drop_lost()
            if self._restarted:
                self._take_again()
            left_s = deadline - time.monotonic()
            wait_ms = max(0, int(min(left_s, _LONGEST_WAIT_S) * 1000))
            if self._held:
                batch = self._read(max_events, wait_ms=wait_ms)
                if batch is not None:
                    return batch
            else:
                self._woken.wait(wait_ms / 1000)
            if left_s <= 0 or self._woken.is_set():
                return None

    def poll_others(self, batch: MicroBatch, *, max_events: int) -> list[MicroBatch]:
        found: list[MicroBatch] = []
        for partition in self._turn:
            held = self._held[partition]
            if max_events > 0 and partition != batch.partition and held.waiting and not held.lost:
                found.append(self._take(partition, max_events))
                max_events -= len(found[-1].events)
        return found

    def commit(self, batch: MicroBatch, *, outputs: Sequence[Output], dead_letters: Sequence[DeadLetter]) -> None:
        if not all(self.commit_all([Commit(batch, outputs, dead_letters)])):
            raise fenced(batch.partition)

    def commit_all(self, commits: Sequence[Commit]) -> list[bool]:
        mine = [each for each in commits if self._holds(each.batch)]
        keys: list[str] = []
        arguments: list[Any] = [repr(time.time())]
        for each in mine:
            keys += [self._key(each.batch.partition, what) for what in ("state", "out", "dead")]
            arguments += (each.batch.epoch, each.batch.first, each.batch.next_offset)
            arguments += (len(each.outputs), len(each.dead_letters))
            # A stream takes ids in rising order only, and an error in the middle of a script is not rolled back.
            for output in sorted(each.outputs, key=_offset_of):
                arguments += _fields(output)
            for letter in sorted(each.dead_letters, key=_offset_of):
                arguments += [*_fields(letter), letter.cause.value, letter.reason, letter.attempts, letter.version]
        with _translated():
            answers = self._commit(keys=keys, args=arguments) if keys else ()
        done = {each.batch.partition for each, answer in zip(mine, answers, strict=True) if int(answer)}
        for each in mine:
            if each.batch.partition in done:
                self._held[each.batch.partition].next_offset = each.batch.next_offset
            else:
                self._forget(each.batch.partition)
        return [each.batch.partition in done for each in commits]

    def note_attempt(self, batch: MicroBatch, *, attempts: int) -> None:
        noted = 0
        if self._holds(batch):
            with _translated():
                key = self._key(batch.partition, "state")
                noted = int(self._note(keys=[key], args=[batch.epoch, batch.first, attempts]))
        if not noted:
            self._forget(batch.partition)
            raise fenced(batch.partition)

    def wake(self) -> None:
        self._woken.set()

    def close(self) -> None:
        for partition in list(self._held):
            with contextlib.suppress(QueueUnavailableError):
                self.release(partition)
            self._forget(partition)
        self._client.close()
        self._renewer.close()

    def _holds(self, batch: MicroBatch) -> bool:
        held = self._held.get(batch.partition)
        return held is not None and held.epoch == batch.epoch and not self._restarted

    def _greet(self, connection: Any) -> None:
        """Of each connection before its first command, which is not sent to another server than the leases are from."""
        connection.on_connect()
        connection.send_command("INFO", "server")
        found = _RUN_ID.search(connection.read_response())
        server = found.group(1) if found else None
        before, self._server = self._server, server
        if self._held and server != before:
            self._restarted = True
            raise redis.exceptions.ConnectionError("it has been started again, or is another one")

    def _take_again(self) -> None:
        """The leases, by what the server knows now; without those that another has meanwhile."""
        for partition in list(self._held):
            if self.acquire(partition) is None:
                self._forget(partition)
        self._restarted = False

    def _read(self, max_events: int, *, wait_ms: int) -> MicroBatch | None:
        """What waits in the partition whose turn it is. One round trip asks all; what the others have is kept."""
        partition = next((partition for partition in self._turn if self._held[partition].waiting), None)
        if partition is None:
            streams = {self._key(p, "in"): f"{self._held[p].next_offset}-0" for p in self._turn}
            block = {"block": wait_ms} if wait_ms else {}
            with _translated():
                found = self._client.xread(streams, count=max_events, **block)
            for key, rows in found or ():
                self._held[_partition(key)].waiting = rows
            partition = next((partition for partition in self._turn if self._held[partition].waiting), None)
        if partition is None:
            return None
        self._turn.remove(partition)
        self._turn.append(partition)
        return self._take(partition, max_events)

    def _take(self, partition: int, max_events: int) -> MicroBatch:
        held = self._held[partition]
        rows, held.waiting = held.waiting[:max_events], []
        return MicroBatch(partition=partition, epoch=held.epoch, events=[_event(row) for row in rows])

    def _drop_lost(self) -> None:
        for partition in [partition for partition, held in self._held.items() if held.lost]:
            self._forget(partition)

    def _forget(self, partition: int) -> None:
        if self._held.pop(partition, None) is not None:
            self._turn.remove(partition)

    def _key(self, partition: int, what: str) -> str:
        return _key(self._name, partition, what)


class _Held:
    """A partition while its lease is ours."""

    __slots__ = ("epoch", "lost", "next_offset", "waiting")

    def __init__(self, epoch: int, next_offset: int) -> None:
        self.epoch = epoch
        self.next_offset = next_offset
        self.lost = False
        self.waiting: list[tuple[bytes, dict[bytes, bytes]]] = []


def _connect(url: str, *, greet: Callable[[Any], None] | None = None) -> Any:
    """greet: called with each new connection in place of its `on_connect`."""
    # Any, for redis-py types an answer as every form it can have.
    # No retry inside the client: a commit whose answer was lost is the scorer's to repeat, and the script's to skip.
    return redis.Redis.from_url(
        url, socket_timeout=_SOCKET_TIMEOUT_S, socket_connect_timeout=_SOCKET_TIMEOUT_S,
        retry=Retry(NoBackoff(), retries=0), redis_connect_func=greet,
    )  # fmt: skip


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except redis.exceptions.AuthenticationError as error:
        raise ConfigError(f"Cannot use the Redis server: {error}. Check the url's user and password.") from error
    except redis.exceptions.RedisError as error:
        raise QueueUnavailableError(f"Cannot use the Redis server: {error}. It is tried again.") from error


def _check_server(info: Mapping[str, Any]) -> None:
    version = str(info.get("redis_version", "0"))
    if int(version.split(".")[0]) < 7:
        raise ConfigError(f"Expected a Redis server of version 7.0 or later, got {version}")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise ConfigError(
            f"Cannot use the Redis server: when memory is short it may evict keys (maxmemory-policy {policy}), and "
            "events would be lost. Set maxmemory-policy noeviction."
        )


def _risks(info: Mapping[str, Any], client: Any) -> list[str]:
    """As far as the server tells."""
    if not int(info.get("aof_enabled", 1)):
        return [
            "The Redis server keeps events in memory alone (appendonly no) and loses them with its end. "
            "Set appendonly yes and appendfsync always."
        ]
    try:
        fsync = client.config_get("appendfsync").get("appendfsync")
    except redis.exceptions.ResponseError:  # not everybody may ask
        return []
    if fsync == "everysec":
        return [
            "While its disk is busy, the Redis server acknowledges before it writes (appendfsync everysec): killed "
            "then, it loses up to two seconds. Set appendfsync always; or no, where only the loss of power may cost."
        ]
    return []


def _check_partitions(client: Any, name: str, num_partitions: int) -> None:
    key = f"{name}:partitions"
    client.set(key, num_partitions, nx=True)
    existing = int(client.get(key) or 0)
    if existing != num_partitions:
        raise ConfigError(
            f"Cannot open the stream {name} with {num_partitions} partitions: it was made with {existing}, and keys "
            "would change places. Use that number, or another name."
        )


def _key(name: str, partition: int, what: str) -> str:
    return f"{{{name}:{partition}}}:{what}"


def _partition(key: bytes) -> int:
    return int(key.rpartition(b"}")[0].rpartition(b":")[2])


def _packed(headers: Mapping[str, str]) -> bytes:
    return msgspec.json.encode(headers) if headers else b""


def _headers(data: bytes) -> Mapping[str, str]:
    return msgspec.json.decode(data, type=dict[str, str]) if data else NO_HEADERS


def _fields(record: Output | DeadLetter) -> list[Any]:
    # A key may be empty but not missing in Redis; a leading byte tells the two apart.
    key = "" if record.key is None else f"k{record.key}"
    return [record.offset, record.id, key, _packed(record.headers), repr(record.created), record.value]


def _offset_of(record: Output | DeadLetter) -> int:
    return record.offset


def _key_of(data: bytes) -> str | None:
    return data[1:].decode() if data else None


def _event(row: tuple[bytes, dict[bytes, bytes]]) -> Event:
    identifier, fields = row
    key = fields[b"k"].decode() if fields[b"n"] == b"1" else None
    offset = int(identifier.split(b"-")[0]) - 1
    return Event(offset, fields[b"i"].decode(), key, fields[b"v"], _headers(fields[b"h"]), float(fields[b"c"]))


def _cursor(identifier: bytes) -> Cursor:
    generation, offset = identifier.split(b"-")
    return Cursor(generation=int(generation) - 1, offset=int(offset) - 1)


def _output_id(cursor: Cursor) -> str:
    return f"{cursor.generation + 1}-{cursor.offset + 1}"


def _delivered(partition: int, row: tuple[bytes, dict[bytes, bytes]]) -> Delivered:
    identifier, fields = row
    cursor = _cursor(identifier)
    output = Output(
        cursor.offset, fields[b"i"].decode(), _key_of(fields[b"k"]), fields[b"v"], _headers(fields[b"h"]),
        float(fields[b"c"]),
    )  # fmt: skip
    return Delivered(partition=partition, cursor=cursor, output=output, committed=float(fields[b"t"]))


def _dead_letter(row: tuple[bytes, dict[bytes, bytes]]) -> DeadLetter:
    identifier, fields = row
    return DeadLetter(
        _cursor(identifier).offset, fields[b"i"].decode(), _key_of(fields[b"k"]), fields[b"v"], _headers(fields[b"h"]),
        float(fields[b"c"]), Cause(fields[b"w"].decode()), fields[b"r"].decode(), int(fields[b"a"]), int(fields[b"m"]),
    )  # fmt: skip


def _state(fields: list[bytes | None]) -> tuple[int, int, str | None, int]:
    """next, epoch, owner, expires in ms."""
    next_offset, epoch, owner, expires = fields
    return int(next_offset or 0), int(epoch or 0), owner.decode() if owner else None, int(float(expires or 0))
