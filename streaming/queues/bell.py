"""Wake-up between processes of one machine, by Unix datagrams in a folder.

Who waits binds a socket in the folder; who has news sends an empty datagram to each socket there. Nobody polls, nothing
is kept: a bell says "look again", the truth is in the database.
"""

from __future__ import annotations

import contextlib
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

    def ring(self) -> None:
        self._look_around()
        for name, line in list(self._lines.items()):
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


class Listener:
    """Hears the bells of several folders."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._sockets: dict[Path, tuple[socket.socket, Path]] = {}
        self._by_descriptor: dict[int, socket.socket] = {}
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)

    def listen(self, folder: Path) -> None:
        """From now on; what rang before is not heard."""
        if folder in self._sockets:
            return
        folder.mkdir(parents=True, exist_ok=True)
        ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        ear.setblocking(False)  # noqa: FBT003  # as above
        path = folder / f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            ear.bind(f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.close(directory)
        self._sockets[folder] = (ear, path)
        self._by_descriptor[ear.fileno()] = ear
        self._epoll.register(ear.fileno(), select.EPOLLIN)

    def ignore(self, folder: Path) -> None:
        ear, path = self._sockets.pop(folder, (None, None))
        if ear is None or path is None:
            return
        path.unlink(missing_ok=True)
        self._epoll.unregister(ear.fileno())
        del self._by_descriptor[ear.fileno()]
        ear.close()

    def wait(self, timeout_s: float) -> bool:
        """True as soon as any bell has rung since the last wait, or on `wake`; False when the time is over."""
        heard = self._epoll.poll(timeout_s)
        for descriptor, _ in heard:
            if descriptor == self._wake:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
            else:
                self._drain(self._by_descriptor[descriptor])
        return bool(heard)

    def wake(self) -> None:
        """From any thread."""
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        for folder in list(self._sockets):
            self.ignore(folder)
        self._epoll.close()
        os.close(self._wake)

    def _drain(self, ear: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                ear.recv(1)
