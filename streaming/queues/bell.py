"""Wake-up between processes of one machine, by Unix datagrams in a folder.

Who waits binds a socket in the folder; who has news sends an empty datagram to each socket there. Who waits for several
folders has the same socket in each, by one name: one datagram is enough. Nobody polls, nothing is kept: a bell says
"look again", the truth is in the database.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import select
import socket
import time
import uuid
from pathlib import Path

# A folder's time stamp moves in ticks of some milliseconds: a listing younger than this may miss a newcomer.
_SETTLED_NS = 50_000_000


class Bell:
    """Rings everybody who listens in the folder. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        # By descriptor: a socket's whole path may have no more than 107 bytes.
        self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self._listed_ns = -1
        self._lines: dict[str, socket.socket] = {}

    def ring(self, *, rung: set[str] | None = None) -> None:
        """rung: who has been rung for the same news in other folders; those here are added."""
        self._look_around()
        for name, line in list(self._lines.items()):
            if rung is not None:
                if name in rung:
                    continue
                rung.add(name)
            try:
                line.send(b"")
            except BlockingIOError:
                pass  # it has rung already
            except OSError:
                self._forget(name)

    def close(self) -> None:
        for name in list(self._lines):
            self._lines.pop(name).close()
        os.close(self._descriptor)

    def _look_around(self) -> None:
        changed_ns = os.fstat(self._descriptor).st_mtime_ns
        if changed_ns == self._listed_ns:
            return
        names = set(os.listdir(self._descriptor))  # noqa: PTH208  # by descriptor, as the sockets are reached
        for name in self._lines.keys() - names:
            self._lines.pop(name).close()
        for name in names - self._lines.keys():
            self._connect(name)
        self._listed_ns = changed_ns if time.time_ns() - changed_ns > _SETTLED_NS else -1

    def _connect(self, name: str) -> None:
        line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        line.setblocking(False)  # noqa: FBT003  # the standard library's
        try:
            line.connect(f"/proc/self/fd/{self._descriptor}/{name}")
        except OSError as error:
            line.close()
            if error.errno == errno.ECONNREFUSED:
                self._unlink(name)
            return
        self._lines[name] = line

    def _forget(self, name: str) -> None:
        self._lines.pop(name).close()
        self._unlink(name)

    def _unlink(self, name: str) -> None:
        # The listener is gone without having cleaned up.
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self._descriptor)


class Heard(enum.IntEnum):
    """What ended a wait; WAKE whatever rang with it."""

    NOTHING = 0
    BELL = 1
    WAKE = 2


class Listener:
    """Hears the bells of several folders."""

    def __init__(self) -> None:
        self._folders: list[Path] = []
        self._ear: socket.socket | None = None
        self._name = ""
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._wake, select.EPOLLIN)

    def listen(self, folder: Path) -> None:
        """From now on; what rang before is not heard."""
        if folder in self._folders:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if self._ear is None:
            self._ear = self._bound(folder)
            self._epoll.register(self._ear.fileno(), select.EPOLLIN)
        else:
            (folder / self._name).hardlink_to(self._folders[0] / self._name)
        self._folders.append(folder)

    def ignore(self, folder: Path) -> None:
        if folder not in self._folders:
            return
        self._folders.remove(folder)
        (folder / self._name).unlink(missing_ok=True)
        if not self._folders and self._ear is not None:
            self._epoll.unregister(self._ear.fileno())
            self._ear.close()
            self._ear = None

    def wait(self, timeout_s: float) -> Heard:
        """As soon as any bell has rung since the last wait, or on `wake`; NOTHING when the time is over."""
        heard = Heard.NOTHING
        for descriptor, _ in self._epoll.poll(timeout_s):
            if descriptor == self._wake:
                heard = Heard.WAKE
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
            else:
                heard = heard or Heard.BELL
                self._drain()
        return heard

    def wake(self) -> None:
        """From any thread."""
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        for folder in list(self._folders):
            self.ignore(folder)
        self._epoll.close()
        os.close(self._wake)

    def _bound(self, folder: Path) -> socket.socket:
        # Another name each time: who has a line to the socket before takes that one for dead.
        self._name = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        ear.setblocking(False)  # noqa: FBT003  # as above
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            ear.bind(f"/proc/self/fd/{directory}/{self._name}")
        finally:
            os.close(directory)
        return ear

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._ear is not None:
                self._ear.recv(1)
