"""What the supervisor decides, apart from doing it: values in, a decision out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from streaming.queues.base import Position
from streaming.settings import PoolSettings


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one scorer shall consume. steal: partitions to take over at once although their lease has not run out."""

    partitions: frozenset[int]
    steal: frozenset[int] = frozenset()


def assign(positions: Collection[Position], *, ready: Collection[str], dead: Collection[str]) -> dict[str, Assignment]:
    """Shares the partitions among the ready scorers, within one of each other, moving as few as possible.

    ready: names of the scorers that can take work. dead: names of scorers known to be gone, whose leases are stolen.
    A lease of a name that is in neither belongs to another pool until it runs out.
    """
    if not ready:
        return {}
    names = sorted(ready)
    owned: dict[str, list[int]] = {name: [] for name in names}
    homeless: list[int] = []
    for position in sorted(positions, key=lambda position: position.partition):
        owned.get(position.owner or "", homeless).append(position.partition)
    least, extra = divmod(len(positions), len(names))
    # Who has most keeps one more, so that the fewest partitions move.
    by_size = sorted(names, key=lambda name: (-len(owned[name]), name))
    quota = {name: least + (1 if rank < extra else 0) for rank, name in enumerate(by_size)}
    for name in names:
        homeless.extend(owned[name][quota[name] :])
        del owned[name][quota[name] :]
    for name in by_size:
        while len(owned[name]) < quota[name]:
            owned[name].append(homeless.pop(0))
    stolen = frozenset(position.partition for position in positions if position.owner in dead)
    return {
        name: Assignment(frozenset(partitions), stolen & frozenset(partitions)) for name, partitions in owned.items()
    }


@dataclass(frozen=True, slots=True)
class Scale:
    """How many scorers are wanted, and since when (monotonic seconds) the pool has been late or at ease."""

    wanted: int
    late_since: float | None = None
    easy_since: float | None = None


def rescale(
    scale: Scale, *, oldest_s: float, lag: int, num_partitions: int, settings: PoolSettings, now: float
) -> Scale:
    """One scorer more when too many events have waited, or one too long, for some time; one less when the pool has
    been at ease for a long time.

    oldest_s: age of the oldest waiting event of the whole stream. lag: events that wait in it.
    """
    most = min(settings.max_scorers, num_partitions)
    least = min(settings.min_scorers, most)
    if oldest_s > settings.scale_up_age_s or lag > settings.scale_up_lag:
        since = now if scale.late_since is None else scale.late_since
        if now - since >= settings.scale_up_after_s and scale.wanted < most:
            return Scale(wanted=scale.wanted + 1)
        return replace(scale, late_since=since, easy_since=None)
    since = now if scale.easy_since is None else scale.easy_since
    if now - since >= settings.scale_down_after_s and scale.wanted > least:
        return Scale(wanted=scale.wanted - 1)
    return replace(scale, late_since=None, easy_since=since)


def surplus(owned: Mapping[str, int], *, wanted: int) -> list[str]:
    """Scorers to drain, those with the fewest partitions first. owned: number of partitions by name."""
    excess = max(0, len(owned) - wanted)
    return sorted(owned, key=lambda name: (owned[name], name))[:excess]


def restart_pause_s(num_failed: int) -> float:
    """Pause before the next start when so many in a row have died before they could work: 0.2 s, doubled up to 10 s."""
    return 0.0 if num_failed == 0 else min(0.2 * 2.0 ** min(num_failed - 1, 10), 10.0)
