"""Starts Ray and Serve with the right environment, waits for a real prediction, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import hashlib
import http
import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import tempfile
import time
import types
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil
import yaml
from rich.console import Console

from zaphod import machine
from zaphod.errors import ConfigError, EnvironmentNotReadyError
from zaphod.settings import load_ray_env

KEY_VARIABLE = "ZAPHOD_KEY"
"""The API key with which the models are tried, where the server wants one."""

_READY_TIMEOUT_S = 120.0
_POLL_S = 0.1
_WATCH_S = 1.0
# Of each cluster's replicas, for a protocol; those that are being replaced have some as well.
_PORTS = 50
# Without either, nothing answers for long.
_VITAL = ("gcs_server", "raylet")


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What to start. dashboard_port: where `ray job submit` and `serve status` look; 8265 is their default."""

    config: Path
    ray_env: Path
    home: Path
    dashboard_port: int = 8265

    @property
    def run_dir(self) -> Path:
        return self.home / "var" / "run"

    @property
    def log_path(self) -> Path:
        return self.home / "var" / "log" / "serve.log"


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """An application. prefix: of all its paths, empty for `/`. models: references of what it serves."""

    prefix: str
    models: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where the Serve configuration says that it listens, and what it serves there."""

    host: str
    port: int
    grpc_port: int
    applications: tuple[Deployed, ...]

    @classmethod
    def read(cls, config: Path) -> Endpoint:
        """Raises: ConfigError."""
        try:
            document = yaml.safe_load(config.read_text())
            options = document.get("http_options", {})
            grpc_port = document.get("grpc_options", {}).get("port", 9000)
            applications = [
                Deployed(
                    prefix=app.get("route_prefix", "/").rstrip("/"), models=tuple(app.get("args", {}).get("models", []))
                )
                for app in document["applications"]
            ]
        except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
            raise ConfigError(
                f"Cannot read {config}: it is no Serve configuration ({error}). See configs/serve.yaml."
            ) from error
        return cls(
            host=options.get("host", "127.0.0.1"),
            port=options.get("port", 8000),
            grpc_port=grpc_port,
            applications=tuple(applications),
        )

    @property
    def url(self) -> str:
        return f"http://{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{self.port}"  # noqa: S104  # compared, not bound


class Launcher:
    """Owns every process of one home from start to stop."""

    def __init__(self, launch: Launch, *, console: Console) -> None:
        self._launch = launch
        self._console = console
        self._endpoint = Endpoint.read(launch.config)
        # What is not listened on yet is free to whoever looks: two of the same would keep HAProxy from starting.
        self._ports = {self._endpoint.port, self._endpoint.grpc_port, launch.dashboard_port}
        self._ray_port = self._free_port()
        self._environ = self._environment()
        self._key = os.environ.get(KEY_VARIABLE, "").strip()

    def run(self) -> int:
        """Blocks until SIGINT or SIGTERM, or until the server ends by itself; returns the exit code.

        Raises: EnvironmentNotReadyError before anything is started; whatever was started is ended first.
        """
        self._prepare()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _interrupt)
        try:
            ray = self._start()
            while all(process.is_running() for process in ray):
                time.sleep(_WATCH_S)
            self._console.print(f"[red]Ray has ended by itself[/]; its logs are in {self._launch.log_path.parent}")
            code = 1
        except KeyboardInterrupt:
            code = 0
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            with self._console.status("stopping"):
                stop(self._launch.run_dir, kill_launcher=False)
            self._console.print("stopped: no process is left")
        return code

    def _prepare(self) -> None:
        for folder in (self._launch.run_dir, self._launch.log_path.parent):
            machine.check_writable(folder)
        running = machine.read_run_file(self._launch.run_dir)
        if running is not None and running.pid != os.getpid():
            raise EnvironmentNotReadyError(
                f"Cannot start: a server of this folder is running already at {running.http} (process {running.pid}). "
                "Use it, or run `make stop` first."
            )
        leftovers = machine.end_marked(self._launch.run_dir)
        if leftovers:
            self._console.print(
                f"ended {len(leftovers)} processes that an earlier start left behind: "
                + ", ".join(sorted(set(leftovers)))
            )
        machine.check_port(
            self._endpoint.host, self._endpoint.port, setting=f"http_options.port in {self._launch.config}"
        )
        machine.check_port("127.0.0.1", self._launch.dashboard_port, setting="--dashboard-port")

    def _start(self) -> list[psutil.Process]:
        """The processes without which there is no server."""
        began = time.monotonic()
        deployer = self._start_deployer()
        with self._console.status("starting Ray"):
            self._start_ray()
        self._console.print(f"Ray is up at {machine.RAY_HOST}:{self._ray_port} ({time.monotonic() - began:.1f} s)")
        ray = [each for each in machine.marked_processes(self._launch.run_dir) if machine.name_of(each) in _VITAL]
        assert deployer.stdin is not None
        deployer.stdin.write(f"{machine.RAY_HOST}:{self._ray_port}\n".encode())
        deployer.stdin.close()
        self._write_run_file()
        self._link_logs(ray)
        with self._console.status("deploying the models"):
            examples = self._wait_ready(deployer)
        asked = sum(body is not None for body in examples.values())
        self._console.print(
            f"[bold green]ready[/] after {time.monotonic() - began:.1f} s: "
            + (
                "each model answered a prediction"
                if asked == len(examples)
                else f"{asked} of {len(examples)} models answered a prediction, the others want an API key; "
                f"they were tried {'with that of' if self._key else 'without, there is none in'} {KEY_VARIABLE}"
            ),
            soft_wrap=True,
        )
        self._greet(examples)
        return ray

    def _start_ray(self) -> None:
        machine.ensure_ray_token(self._environ)
        command = [
            sys.executable, "-m", "deployments.head", "start", "--head",
            f"--node-ip-address={machine.RAY_HOST}", f"--port={self._ray_port}",
            "--include-dashboard=true", f"--dashboard-port={self._launch.dashboard_port}",
            # Nothing here asks for these two, and each is a process: the starting of further nodes, and the copying of
            # every worker's log to whoever started Ray.
            "--no-monitor", "--include-log-monitor=false",
            "--disable-usage-stats",
            # Takes submitted jobs; on its default port only one cluster of a machine could.
            f"--dashboard-agent-listen-port={self._free_port()}",
        ]  # fmt: skip
        done = subprocess.run(  # noqa: S603  # our own command
            command, env=self._environ, cwd=self._launch.home, capture_output=True, text=True, start_new_session=True
        )
        if done.returncode != 0:
            raise EnvironmentNotReadyError(f"Cannot start Ray: {_last_line(done.stderr or done.stdout)}")

    def _start_deployer(self) -> subprocess.Popen[bytes]:
        with self._launch.log_path.open("wb") as log:
            return subprocess.Popen(  # noqa: S603  # as above
                [sys.executable, "-m", "deployments.deploy", str(self._launch.config)],
                env=self._environ, cwd=self._launch.home, stdout=log, stderr=subprocess.STDOUT,
                stdin=subprocess.PIPE, start_new_session=True,
            )  # fmt: skip

    def _free_port(self) -> int:
        port = machine.free_port(besides=self._ports)
        self._ports.add(port)
        return port

    def _link_logs(self, ray: Sequence[psutil.Process]) -> None:
        """`var/log/ray` leads to what every process of this Ray writes."""
        flag = "--log_dir="
        folder = next((word.removeprefix(flag) for each in ray for word in each.cmdline() if word.startswith(flag)), "")
        link = self._launch.log_path.with_name("ray")
        link.unlink(missing_ok=True)
        if folder:
            link.symlink_to(folder)

    def _write_run_file(self) -> None:
        server = machine.RunningServer(
            pid=os.getpid(),
            created=psutil.Process().create_time(),
            ray_address=f"{machine.RAY_HOST}:{self._ray_port}",
            dashboard=f"http://127.0.0.1:{self._launch.dashboard_port}",
            http=self._endpoint.url,
        )
        staged = self._launch.run_dir / f".{machine.RUN_FILE}"
        staged.write_bytes(msgspec.json.encode(server))
        staged.replace(self._launch.run_dir / machine.RUN_FILE)

    def _wait_ready(self, deployer: subprocess.Popen[bytes]) -> dict[str, str | None]:
        """The example body of each model, by its address, after each has been answered over HTTP; None if refused."""
        deadline = time.monotonic() + _READY_TIMEOUT_S
        examples: dict[str, str | None] = {}
        waiting = [application for application in self._endpoint.applications if application.models]
        while waiting:
            if deployer.poll():
                raise EnvironmentNotReadyError(
                    f"Cannot serve: {self._last_log_line()}. The log is {self._launch.log_path}."
                )
            if time.monotonic() > deadline:
                raise EnvironmentNotReadyError(
                    f"Cannot serve: no prediction after {_READY_TIMEOUT_S:.0f} s. The log is {self._launch.log_path}."
                )
            application = waiting[0]
            try:
                examples |= predict_examples(
                    f"{self._endpoint.url}{application.prefix}", application.models, key=self._key
                )
                waiting.pop(0)
            except (OSError, KeyError, ValueError):
                time.sleep(_POLL_S)
        return examples

    def _greet(self, examples: Mapping[str, str | None]) -> None:
        docs = [f"{self._endpoint.url}{each.prefix}/docs" for each in self._endpoint.applications]
        self._console.print("\ndocs         " + "\n             ".join(docs))
        self._console.print(f"Ray          http://127.0.0.1:{self._launch.dashboard_port}")
        self._console.print("try it:\n")
        self._console.print(self._suggestion(examples) + "\n", soft_wrap=True, markup=False, highlight=False)
        self._console.print("Ctrl-C stops the server.")

    def _suggestion(self, examples: Mapping[str, str | None]) -> str:
        """A line for a shell; for a model that nobody could ask yet, one that says what it takes."""
        answered = {address: body for address, body in examples.items() if body is not None}
        address, body = next(iter((answered or examples).items()))
        key = f' -H "authorization: Bearer ${KEY_VARIABLE}"' if self._key or body is None else ""
        if body is None:
            return f"curl -s {address}{key}"
        return f"curl -s {address}:predict{key} -H 'content-type: application/json' -d {shlex.quote(body)}"

    def _last_log_line(self) -> str:
        return _last_line(self._launch.log_path.read_text(errors="replace"))

    def _environment(self) -> dict[str, str]:
        # Two clusters on one machine collide on HAProxy's default files and ports; socket paths must stay short.
        digest = hashlib.sha256(str(self._launch.run_dir).encode()).hexdigest()[:10]
        haproxy = _own_folder(Path(tempfile.gettempdir()) / f"zaphod-{os.getuid()}-{digest}")
        # And on the ports of replicas and of the Python proxy, which HAProxy asks while it knows no replica: one that
        # another cluster's proxy shares, or takes over when a replica dies, answers with that cluster's models.
        http = machine.free_ports(30_000, 32_700, num=_PORTS)
        grpc = machine.free_ports(40_000, 41_000, num=_PORTS)
        return {
            **os.environ,
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "admin.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "server-state"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(haproxy / "metrics.sock"),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(self._free_port()),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(self._free_port()),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(self._free_port()),
            "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(self._free_port()),
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(http),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(http + _PORTS),
            "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(grpc),
            "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(grpc + _PORTS),
            # A worker that has nothing to do ends after a second; Ray would keep one a CPU, of a hundred megabytes.
            "RAY_num_workers_soft_limit": "0",
            # The first driver here has workers of its own kind (deployments.lean): others would start in vain.
            "RAY_prestart_worker_first_driver": "0",
            **load_ray_env(self._launch.ray_env),
            "ZAPHOD_HOME": str(self._launch.home),
            # `python` in the entry point of a submitted job is this environment's.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            machine.MARK: str(self._launch.run_dir),
        }


def _own_folder(path: Path) -> Path:
    """Made where it is missing. Whoever could write there could take over the edge.

    Raises: EnvironmentNotReadyError when others may.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise EnvironmentNotReadyError(
            f"Cannot use {path}: it is no folder of this user's alone. Remove it, or set TMPDIR to another place."
        )
    return path


def stop(run_dir: Path, *, kill_launcher: bool = True) -> list[str]:
    """Ends everything that was started for this home; returns the names of the processes. Nothing running is fine."""
    server = machine.read_run_file(run_dir)
    names: list[str] = []
    if kill_launcher and server is not None:
        machine.end_processes([psutil.Process(server.pid)], grace_s=30.0)
        names.append("server")
    names += machine.end_marked(run_dir)
    if kill_launcher:
        names += machine.end_owned(run_dir)
    (run_dir / machine.RUN_FILE).unlink(missing_ok=True)
    if server is not None:
        _forget_address(server.ray_address)
    return names


def _forget_address(ray_address: str) -> None:
    """Ray notes where the last `ray start` listens and joins it unasked; a note of what is gone would be waited for."""
    note = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray" / "ray_current_cluster"
    with contextlib.suppress(OSError):
        if note.read_text().strip() == ray_address:
            note.unlink()


def predict_examples(application: str, models: Sequence[str], *, key: str) -> dict[str, str | None]:
    """Has each model predict the example that the server itself documents.

    application: its address. key: an API key, or nothing. The body of each by the model's address, once its prediction
    came back; None where a healthy server refuses the key: it answers only once all its models have predicted.

    Raises: OSError, KeyError, ValueError while it does not serve yet.
    """
    examples: dict[str, object] = {}
    try:
        examples = {each["model"]: each["example"] for each in _ask(f"{application}/v1/models", key=key)["models"]}
    except urllib.error.HTTPError as error:
        if error.code not in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN):
            raise
        _ask(f"{application}/health")
    found: dict[str, str | None] = {}
    for reference in models:
        address = f"{application}/v1/models/{reference}"
        found[address] = body = json.dumps(examples[reference]) if reference in examples else None
        if body is not None:
            _ask(f"{address}:predict", key=key, body=body)["predictions"][0]
    return found


def _ask(url: str, *, key: str = "", body: str | None = None) -> Any:  # JSON
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(url, data=None if body is None else body.encode(), headers=headers)  # noqa: S310  # our own server
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  # as above
        return json.load(answer)


def _interrupt(number: int, frame: types.FrameType | None) -> None:
    raise KeyboardInterrupt


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
