"""What runs on this machine for one Zaphod home: processes found by a mark in their environment, ports, the run file.

Ray's children outlive a killed parent. Every process started here inherits `ZAPHOD_CLUSTER=<run folder>`, so that
leftovers are found without guessing by name and nobody else's process is ever touched.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import socket
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from zaphod.errors import EnvironmentNotReadyError
from zaphod.settings import load_ray_env

MARK = "ZAPHOD_CLUSTER"
_OWNER = "#"
# The clock by which a process began is read anew each time.
_SAME_S = 0.05
RUN_FILE = "serve.json"

RAY_HOST = "127.0.0.2"
"""Loopback. Ray replaces 127.0.0.1 by the machine's outer address, on which nothing of ours listens."""


class RunningServer(msgspec.Struct, frozen=True, kw_only=True):
    """var/run/serve.json: what `make serve` started, for the other arms to find.

    created: when the process began, seconds since the epoch; a later one with the same id is another.
    """

    pid: int
    created: float
    ray_address: str
    dashboard: str
    http: str


def home() -> Path:
    """Where relative paths start: ZAPHOD_HOME, which a cluster's processes have, or the working directory."""
    return Path(os.environ.get("ZAPHOD_HOME", Path.cwd()))


def read_run_file(run_dir: Path) -> RunningServer | None:
    """The server that runs now, or None when there is none or its launcher is gone."""
    try:
        server = msgspec.json.decode((run_dir / RUN_FILE).read_bytes(), type=RunningServer)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    with contextlib.suppress(psutil.Error):
        if abs(psutil.Process(server.pid).create_time() - server.created) < _SAME_S:
            return server
    return None


@dataclass(frozen=True, slots=True)
class RayPlace:
    """Where an arm's Ray is: an address to join, or None to start one. environ: to be set before either."""

    address: str | None
    environ: Mapping[str, str]


def find_ray(run_dir: Path, *, ray_env: Path) -> RayPlace:
    """`RAY_ADDRESS` (set in every submitted job), else the server of this home, else a Ray of one's own.

    Raises: ConfigError when the file of Ray's environment is wrong.
    """
    address = os.environ.get("RAY_ADDRESS")
    if address:
        return RayPlace(address, {})  # whoever set it has set what belongs to it
    environ = load_ray_env(ray_env)
    ensure_ray_token(environ)
    server = read_run_file(run_dir)
    if server is not None:
        return RayPlace(server.ray_address, environ)
    return RayPlace(None, {**environ, MARK: owned_mark(run_dir)})


def ensure_ray_token(environ: Mapping[str, str]) -> None:
    """Makes Ray's token, readable by this user alone, when its environment asks for one and there is none."""
    known = {**os.environ, **environ}
    if known.get("RAY_AUTH_MODE") != "token" or known.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
        return
    path = Path.home() / ".ray" / "auth_token"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    except OSError as error:
        raise EnvironmentNotReadyError(
            f"Cannot write Ray's token to {path}: {error.strerror}. Give this user the right, or set RAY_AUTH_TOKEN."
        ) from error
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))


def owned_mark(run_dir: Path) -> str:
    """The mark of a Ray that belongs to this very process, so that `make serve` leaves it alone while that lives."""
    return f"{run_dir}{_OWNER}{os.getpid()}:{psutil.Process().create_time():.2f}"


def marked_processes(run_dir: Path) -> list[psutil.Process]:
    """What `make serve` of this home started, other than this process and its ancestors, oldest first."""
    return find_processes(lambda mark: mark == str(run_dir))


def end_orphans(run_dir: Path) -> list[str]:
    """Ends every process of a Ray whose owner has died without ending it; returns their names."""
    return _end_all(lambda mark: mark.startswith(f"{run_dir}{_OWNER}") and _owner(mark) is None)


def end_owned(run_dir: Path) -> list[str]:
    """Ends the owners of this home's other Rays, then what is left of them; returns the names of what was left."""
    owners = set()
    for process in find_processes(lambda mark: mark.startswith(f"{run_dir}{_OWNER}")):
        with contextlib.suppress(psutil.Error):
            owners.add(_owner(_mark(process.pid)))
    end_processes([owner for owner in owners if owner is not None], grace_s=30.0)
    return end_orphans(run_dir)


def end_processes(processes: Sequence[psutil.Process], *, grace_s: float = 5.0) -> None:
    """Asks each to end, waits, then kills what is left. By process id, so a reused id is not touched."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=grace_s)


def end_marked(run_dir: Path) -> list[str]:
    """Ends everything that `make serve` of this home started; returns the names."""
    return _end_all(lambda mark: mark == str(run_dir))


def free_port(*, besides: Container[int] = ()) -> int:
    """A port that was free on all addresses a moment ago. besides: ports that are meant for something else.

    Below those that the system gives to outgoing connections: one of them could take it before it is listened on. And
    apart from Ray's own ranges, workers from 10,002 and replicas from 30,000.
    """
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        if port not in besides and _is_free(port):
            return port


def free_ports(low: int, high: int, *, num: int) -> int:
    """The first of `num` ports in a row of which none was listened on a moment ago; low when there is no such row."""
    firsts = list(range(low, high - num + 1, num))
    random.SystemRandom().shuffle(firsts)
    return next((first for first in firsts if all(map(_is_free, range(first, first + num)))), low)


def _is_free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.bind(("", port))
        return True
    return False


def check_port(host: str, port: int, *, setting: str) -> None:
    """Raises: EnvironmentNotReadyError naming who holds the port, where that can be seen."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise EnvironmentNotReadyError(
                f"Cannot listen on {host}:{port}: {_holder(port) or error.strerror}. End it, or set another {setting}."
            ) from error


def check_writable(folder: Path) -> None:
    """Creates the folder. Raises: EnvironmentNotReadyError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise EnvironmentNotReadyError(
            f"Cannot write to {folder.absolute()}: {error.strerror}. Give this user the right, or use another folder."
        ) from error


def name_of(process: psutil.Process) -> str:
    """Empty for one that has ended."""
    try:
        name: str = process.name()
    except psutil.NoSuchProcess:
        return ""
    return name


def find_processes(belongs: Callable[[str], bool]) -> list[psutil.Process]:
    """Processes by their mark (empty where there is none), other than this one and its ancestors, oldest first."""
    mine = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid not in mine and belongs(_mark(process.pid)):
                found.append(process)
    return sorted(found, key=lambda process: process.create_time())


def _mark(pid: int) -> str:
    """Empty when there is none. Ray's processes write their title over the beginning of their environment, where
    psutil then sees its end: the bytes are read as they are.
    """
    _, found, rest = (b"\0" + Path(f"/proc/{pid}/environ").read_bytes()).partition(b"\0" + MARK.encode() + b"=")
    return os.fsdecode(rest.split(b"\0", 1)[0]) if found else ""


def _end_all(belongs: Callable[[str], bool]) -> list[str]:
    """Also those born meanwhile."""
    names: list[str] = []
    for _ in range(5):
        processes = find_processes(belongs)
        if not processes:
            break
        for process in processes:
            with contextlib.suppress(psutil.Error):
                names.append(process.name())
        end_processes(processes)
    return names


def _owner(mark: str) -> psutil.Process | None:
    """The process that a mark names, if it lives; a later one with the same id is another."""
    pid, _, created = mark.rpartition(_OWNER)[2].partition(":")
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(int(pid))
        if f"{process.create_time():.2f}" == created:
            return process
    return None


def _holder(port: int) -> str | None:
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("inet"):
            if (
                connection.status == psutil.CONN_LISTEN
                and connection.laddr
                and connection.laddr.port == port
                and connection.pid
            ):
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid}) holds it"
    return None
