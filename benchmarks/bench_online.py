"""How fast the online arm answers, beside other servers of the same pipeline on the same machine in the same run.

Measured, with wrk, for each server: requests a second, p50 and p99 at 1, 16 and 64 connections with one row a request,
rows a second in requests of 1,000 rows, errors, time from start to the first prediction, and memory (PSS of all its
processes) when idle. Servers stay up together and take turns, so that a busy machine slows all of them alike; figures
are medians of the rounds. Only ratios of one run mean anything.

The pipeline has 8 numbers, 4 categories and gradient boosting. Peers run it in scikit-learn, as their documentation
shows; `ceiling` runs our compiled model in bare uvicorn with nothing else done, `ceiling-haproxy` the same behind the
HAProxy that we have in front: what an edge leaves of it on this machine. `zaphod-unlogged` is ours without the
prediction log, which tells what that takes of the arm as it is deployed. Peers are pinned and installed in
environments of their own under --folder; one that does not install is reported with its error and left out.

Not measured: networks, TLS, machines with more than a few cores.

    python benchmarks/bench_online.py [--only zaphod ceiling fastapi-2] [--seconds 5] [--rounds 3]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import joblib
import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from examples import train, transactions  # noqa: E402  # the path is set above
from zaphod import machine  # noqa: E402
from zaphod.bundle import ONNX, SKOPS  # noqa: E402
from zaphod.compiler.codes import Coder, decode_metadata  # noqa: E402
from zaphod.registry import CHAMPION, Registry  # noqa: E402
from zaphod.trust import load_estimator  # noqa: E402

CONNECTIONS = (1, 16, 64)
MANY_ROWS = 1_000
# Connections, and rows a request.
CASES = (*((connections, 1) for connections in CONNECTIONS), (4, MANY_ROWS))
READY_S = 180.0
SKLEARN = ("scikit-learn==1.9.*", "pandas==3.*", "joblib")


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One server. packages: of its own environment; without any it runs in ours. form: of the request's body."""

    name: str
    kind: str
    path: str = "/predict"
    form: str = "rows"
    packages: tuple[str, ...] = ()
    environ: dict[str, str] = field(default_factory=dict)


FASTAPI = ("fastapi==0.115.*", "uvicorn[standard]==0.34.*", *SKLEARN)
PEERS = (
    Peer(name="zaphod", kind="zaphod", path="/v1/models/fraud:predict"),
    Peer(name="zaphod-unlogged", kind="zaphod", path="/v1/models/fraud:predict"),
    Peer(name="ceiling", kind="ceiling"),
    Peer(name="ceiling-haproxy", kind="ceiling_behind_haproxy"),
    Peer(name="fastapi-1", kind="fastapi", packages=FASTAPI, environ={"PEER_WORKERS": "1"}),
    Peer(name="fastapi-2", kind="fastapi", packages=FASTAPI, environ={"PEER_WORKERS": "2"}),
    Peer(name="litserve", kind="litserve", packages=("litserve==0.2.*", *SKLEARN)),
    Peer(name="litserve-batched", kind="litserve", packages=("litserve==0.2.*", *SKLEARN)),
    Peer(name="bentoml", kind="bentoml", packages=("bentoml==1.4.*", *SKLEARN)),
    Peer(name="bentoml-batched", kind="bentoml", packages=("bentoml==1.4.*", *SKLEARN)),
    Peer(name="mlserver", kind="mlserver", path="/v2/models/fraud/infer", form="v2",
         packages=("mlserver==1.7.*", *SKLEARN)),
    Peer(name="mlserver-batched", kind="mlserver", path="/v2/models/fraud/infer", form="v2",
         packages=("mlserver==1.7.*", *SKLEARN)),
    Peer(name="mlflow", kind="mlflow", path="/invocations", form="mlflow", packages=("mlflow==3.*", *SKLEARN)),
    Peer(name="ray", kind="ray_documented", path="/"),
    Peer(name="ray-batched", kind="ray_documented", path="/"),
)  # fmt: skip


@dataclass
class Running:
    """A server that answers. ready_s: from its start to its first prediction."""

    peer: Peer
    process: subprocess.Popen[bytes]
    url: str
    ready_s: float
    idle_mb: float = 0.0


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw. Latencies in milliseconds."""

    rate: float
    p50: float
    p99: float
    errors: int


def make_model(folder: Path) -> Registry:
    """The demo's fraud model in a registry, as joblib for the peers, as ONNX with its codes for the ceiling."""
    registry = Registry.open(str(folder / "registry"))
    if CHAMPION not in registry.state("fraud").aliases:
        packaged = train.train_fraud(registry)
        registry.set_alias("fraud", alias=CHAMPION, version=packaged.version, action="promote", why="benchmark")
    bundle = registry.load("fraud", 1)
    joblib.dump(load_estimator(bundle.files[SKOPS]), folder / "model.joblib")
    (folder / "model.onnx").write_bytes(bundle.files[ONNX])
    import onnxruntime

    session = onnxruntime.InferenceSession(bundle.files[ONNX], providers=["CPUExecutionProvider"])
    encoding = decode_metadata(session.get_modelmeta().custom_metadata_map)
    strings = {}
    for wanted, codes in zip(bundle.schema.string_fields, encoding.strings, strict=True):
        coder = Coder(codes)
        by_value = {value: coder.one(value) for value in codes.values}
        strings[wanted.name] = {"by_value": by_value, "null": coder.one(None), "other": coder.one("\0")}
    numbers = [each.name for each in bundle.schema.number_fields]
    (folder / "codes.json").write_text(json.dumps({"numbers": numbers, "strings": strings}))
    return registry


def make_body(form: str, num_rows: int) -> str:
    """Rows of the demo table in a peer's own form."""
    frame = transactions.generate(num_rows + 10, seed=7)[list(transactions.FEATURES)].iloc[10:]
    rows = json.loads(frame.to_json(orient="records"))
    if form == "mlflow":
        return json.dumps({"dataframe_split": json.loads(frame.to_json(orient="split", index=False))})
    if form == "v2":
        inputs = []
        for name in transactions.FEATURES:
            words = name in transactions.CATEGORIES
            data = [row[name] if row[name] is not None else ("" if words else 0.0) for row in rows]
            inputs.append(
                {"name": name, "shape": [num_rows, 1], "datatype": "BYTES" if words else "FP64", "data": data}
                | ({"parameters": {"content_type": "str"}} if words else {})
            )
        return json.dumps({"parameters": {"content_type": "pd"}, "inputs": inputs})
    return json.dumps({"rows": rows})


def install(peer: Peer, folder: Path) -> str:
    """The Python of the peer's environment. Raises: RuntimeError with the last lines of what pip said."""
    if not peer.packages:
        return sys.executable
    home = folder / "environments" / peer.kind
    python = home / "bin" / "python"
    if not (home / ".installed").exists():
        venv.create(home, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peer.packages]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise RuntimeError(" ".join(errors or done.stderr.splitlines()[-2:]))
        (home / ".installed").touch()
    return str(python)


def start(peer: Peer, folder: Path, registry: Registry) -> Running:
    """Starts a server and waits for a prediction. Raises: RuntimeError when it ends or does not answer."""
    python, port = install(peer, folder), machine.free_port()
    environ = {
        **os.environ, **peer.environ, "OMP_NUM_THREADS": "1", "PEER_BATCHED": str(int(peer.name.endswith("-batched"))),
    }  # fmt: skip
    home = home_of(peer, folder)
    if peer.kind == "zaphod":
        command = zaphod_command(home, registry, port, logged=not peer.name.endswith("-unlogged"))
    else:
        command = [python, str(ROOT / "benchmarks/online_peers.py"), peer.kind, str(port), str(folder)]
    log = folder / f"{peer.name}.log"
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=home, env=environ, stdout=output, stderr=output, start_new_session=True)
    running = Running(peer, process, f"http://127.0.0.1:{port}{peer.path}", 0.0)
    body = make_body(peer.form, 1).encode()
    while not answers(running.url, body):
        if process.poll() is not None or time.monotonic() - began > READY_S:
            end(running)
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            raise RuntimeError("does not start: " + (lines[-1] if lines else "it said nothing"))
        time.sleep(0.05)
    running.ready_s = time.monotonic() - began
    return running


def home_of(peer: Peer, folder: Path) -> Path:
    """Where it is started. Ours keep their processes' names there, so each has a folder of its own."""
    home = folder / peer.name if peer.kind == "zaphod" else folder
    home.mkdir(exist_ok=True)
    return home


def zaphod_command(home: Path, registry: Registry, port: int, *, logged: bool) -> list[str]:
    """`python -m deployments up` on the shipped configuration, one replica, with the prediction log or without."""
    config = yaml.safe_load((ROOT / "configs/serve.yaml").read_text())
    config["http_options"]["port"] = port
    application = config["applications"][0]
    application["args"] |= {"registry": registry.uri, "models": ["fraud"]}
    if not logged:
        application["args"]["monitoring"] = {}
    application["deployments"][0]["autoscaling_config"] |= {"max_replicas": 1}
    (home / "serve.yaml").write_text(yaml.safe_dump(config))
    return [
        sys.executable, "-m", "deployments", "up", "--config", "serve.yaml", "--ray-env",
        str(ROOT / "configs/ray.env"), "--dashboard-port", str(machine.free_port()),
    ]  # fmt: skip


def answers(url: str, body: bytes) -> bool:
    """Whether a prediction comes back."""
    request = urllib.request.Request(url, data=body, headers={"content-type": "application/json"})  # noqa: S310  # our own
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  # as above
            answer.read()
            return True
    except (OSError, urllib.error.URLError):
        return False


def family(running: Running, folder: Path) -> set[psutil.Process]:
    """Every process of a server and their descendants; Ray's are no descendants of what started them."""
    found: set[psutil.Process] = set()
    with contextlib.suppress(psutil.Error):
        found.add(psutil.Process(running.process.pid))
    if running.peer.kind == "zaphod":
        found.update(machine.marked_processes(home_of(running.peer, folder) / "var" / "run"))
    for process in list(found):
        with contextlib.suppress(psutil.Error):
            found.update(process.children(recursive=True))
    return found


def memory_mb(running: Running, folder: Path) -> float:
    """Proportional set size of all processes, in megabytes."""
    total = 0
    for process in family(running, folder):
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total / 1e6


def idle_mb(running: Running, folder: Path) -> float:
    """Once it has been still for six seconds: some servers end what they started with only after a while."""
    seen = [memory_mb(running, folder)]
    while len(seen) < 12 and (len(seen) < 3 or max(seen[-3:]) > 1.01 * min(seen[-3:])):
        time.sleep(3.0)
        seen.append(memory_mb(running, folder))
    return seen[-1]


def end(running: Running) -> None:
    """Asks the server to end, waits, and kills what is left of its descendants."""
    with contextlib.suppress(psutil.Error, ProcessLookupError):
        children = psutil.Process(running.process.pid).children(recursive=True)
        running.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.process.wait(timeout=60)
        machine.end_processes([child for child in children if child.is_running()])


def wrk(running: Running, folder: Path, *, connections: int, num_rows: int, seconds: float) -> Load:
    """One turn of one server."""
    script = folder / f"{running.peer.form}-{num_rows}.lua"
    if not script.exists():
        body = make_body(running.peer.form, num_rows)
        script.write_text(
            f'wrk.method = "POST"\nwrk.headers["content-type"] = "application/json"\nwrk.body = [==[{body}]==]\n'
            "done = function(summary, latency, requests)\n"
            '  io.write(string.format("RESULT %d %d %d %d %d\\n", summary.requests, summary.duration,'
            " latency:percentile(50), latency:percentile(99), summary.errors.status + summary.errors.connect"
            " + summary.errors.read + summary.errors.write + summary.errors.timeout))\nend\n"
        )
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script), running.url],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    num, duration_us, p50_us, p99_us, errors = map(int, found.groups())
    return Load(rate=num / (duration_us / 1e6), p50=p50_us / 1e3, p99=p99_us / 1e3, errors=errors)


def take_turns(
    servers: list[Running], folder: Path, *, seconds: float, rounds: int
) -> dict[tuple[str, int, int], list[Load]]:
    """Loads by (name, connections, rows)."""
    loads: dict[tuple[str, int, int], list[Load]] = {}
    for turn in range(rounds):
        for connections, num_rows in CASES:
            for server in servers if turn % 2 else servers[::-1]:
                load = wrk(server, folder, connections=connections, num_rows=num_rows, seconds=seconds)
                loads.setdefault((server.peer.name, connections, num_rows), []).append(load)
    return loads


def report(servers: list[Running], loads: dict[tuple[str, int, int], list[Load]]) -> None:
    """Prints the table and the ratios."""

    def middle(name: str, connections: int, what: str, num_rows: int = 1) -> float:
        return statistics.median(getattr(load, what) for load in loads[name, connections, num_rows])

    print(
        f"\n{'server':<18}{'ready s':>8}{'PSS MB':>8}{'req/s 1':>9}{'p50 ms':>8}{'p99 ms':>8}{'req/s 16':>10}"
        f"{'p99 ms':>8}{'req/s 64':>10}{'p99 ms':>8}{'rows/s':>9}{'errors':>8}"
    )
    for server in servers:
        name = server.peer.name
        errors = sum(load.errors for (each, _, _), some in loads.items() if each == name for load in some)
        print(
            f"{name:<18}{server.ready_s:>8.1f}{server.idle_mb:>8.0f}{middle(name, 1, 'rate'):>9,.0f}"
            f"{middle(name, 1, 'p50'):>8.2f}{middle(name, 1, 'p99'):>8.2f}{middle(name, 16, 'rate'):>10,.0f}"
            f"{middle(name, 16, 'p99'):>8.1f}{middle(name, 64, 'rate'):>10,.0f}{middle(name, 64, 'p99'):>8.1f}"
            f"{middle(name, 4, 'rate', MANY_ROWS) * MANY_ROWS:>9,.0f}{errors:>8}"
        )
    names = {server.peer.name for server in servers}
    if "zaphod" not in names:
        return
    ours = {connections: middle("zaphod", connections, "rate") for connections in CONNECTIONS}
    print()
    if "zaphod-unlogged" in names:
        report_log(loads)
    if "ceiling" in names:
        for connections in CONNECTIONS:
            print(f"req/s over the ceiling, {connections:>2} connections: "
                  f"{ours[connections] / middle('ceiling', connections, 'rate'):.2f}")  # fmt: skip
        for what in ("p50", "p99"):
            ratio = middle("zaphod", 1, what) / middle("ceiling", 1, what)
            print(f"{what} at 1 connection over the ceiling's: {ratio:.1f}x")
        rows = middle("zaphod", 4, "rate", MANY_ROWS) / middle("ceiling", 4, "rate", MANY_ROWS)
        print(f"rows/s in requests of {MANY_ROWS} over the ceiling's: {rows:.2f}")
    if "ceiling-haproxy" in names:
        for connections in CONNECTIONS:
            print(f"req/s over the ceiling behind HAProxy, {connections:>2} connections: "
                  f"{ours[connections] / middle('ceiling-haproxy', connections, 'rate'):.2f}")  # fmt: skip
    peers = names - {"zaphod", "zaphod-unlogged", "ceiling", "ceiling-haproxy"}
    for connections, group, what in (
        (16, {name for name in peers if not name.endswith("-batched")}, "without batching"),
        (64, {name for name in peers if name.endswith("-batched")}, "with batching"),
    ):
        if group:
            best = max(group, key=lambda name: middle(name, connections, "rate"))
            print(f"req/s over the best peer {what} ({best}), {connections} connections: "
                  f"{ours[connections] / middle(best, connections, 'rate'):.1f}x")  # fmt: skip


def report_log(loads: dict[tuple[str, int, int], list[Load]]) -> None:
    """Prints what the prediction log takes: time a request with it over without, turn by turn."""
    for connections, num_rows in CASES:
        logged, without = (loads[name, connections, num_rows] for name in ("zaphod", "zaphod-unlogged"))
        ratios = sorted(other.rate / ours.rate - 1 for ours, other in zip(logged, without, strict=True))
        middle, quarter = statistics.median(ratios), len(ratios) // 4
        print(
            f"time that the log takes at {connections:>2} connections, {num_rows:>5} rows a request: {middle:+.1%} "
            f"(half of the turns: {ratios[quarter]:+.1%} to {ratios[-1 - quarter]:+.1%})"
        )


@contextlib.contextmanager
def all_running(peers: list[Peer], folder: Path, registry: Registry) -> Iterator[list[Running]]:
    """Starts each, measures it idle, and stops it from running while others start; ends all of them."""
    servers: list[Running] = []
    try:
        for peer in peers:
            try:
                server = start(peer, folder, registry)
            except RuntimeError as error:
                print(f"{peer.name}: {error}", flush=True)
                continue
            servers.append(server)
            server.idle_mb = idle_mb(server, folder)
            print(f"{peer.name}: ready after {server.ready_s:.1f} s, {server.idle_mb:.0f} MB", flush=True)
        yield servers
    finally:
        for server in servers:
            end(server)


def main() -> None:
    """Installs, starts, takes turns, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=[peer.name for peer in PEERS], help="a part of the servers")
    parser.add_argument("--seconds", type=int, default=4, help="of one turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=ROOT / "var" / "bench-online", help="environments and logs")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("Cannot measure: wrk is not installed. Install Debian's package wrk.")
    folder = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    registry = make_model(folder)
    peers = [peer for peer in PEERS if arguments.only is None or peer.name in arguments.only]
    for peer in peers:
        with contextlib.suppress(RuntimeError):
            install(peer, folder)  # before anything is measured; a failure is reported when it should start
    with all_running(peers, folder, registry) as servers:
        report(servers, take_turns(servers, folder, seconds=arguments.seconds, rounds=arguments.rounds))


if __name__ == "__main__":
    main()
