"""The gRPC service beyond the happy path, with NVIDIA's client."""

from __future__ import annotations

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton

from tests.conftest import Server, wait_for

pytestmark = pytest.mark.cluster


@pytest.fixture
def client(server: Server) -> triton.InferenceServerClient:
    """Closed by its own finaliser."""
    return triton.InferenceServerClient(server.grpc)


def tensors(**columns: np.ndarray) -> list[triton.InferInput]:
    """One input a column."""
    kinds = {"f": "FP64", "i": "INT64", "O": "BYTES"}
    made = []
    for name, values in columns.items():
        tensor = triton.InferInput(name, list(values.shape), kinds[values.dtype.kind])
        tensor.set_data_from_numpy(values)
        made.append(tensor)
    return made


def test_server_and_model_metadata(client: triton.InferenceServerClient) -> None:
    """Live, ready, and what each model takes and gives."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("binary")
    assert client.is_model_ready("binary", "1")
    assert client.get_server_metadata().name == "zaphod"
    metadata = client.get_model_metadata("multiclass")

    assert list(metadata.versions) == ["1"]
    assert {(tensor.name, tensor.datatype) for tensor in metadata.inputs} == {
        ("amount", "FP64"), ("balance", "FP64"), ("count", "INT64"), ("kind", "BYTES"),
    }  # fmt: skip
    assert [tuple(tensor.shape) for tensor in metadata.outputs] == [(-1,), (-1, 3)]


def test_chosen_outputs_version_and_stamp(client: triton.InferenceServerClient) -> None:
    """Outputs by the names that scikit-learn runtimes use; the answer says who gave it."""
    result = client.infer(
        "binary",
        tensors(amount=np.array([1.0, 2.0]), count=np.array([1, 2])),
        model_version="1",
        outputs=[triton.InferRequestedOutput("predict_proba")],
    )
    response = result.get_response()

    assert result.as_numpy("predict_proba").shape == (2, 2)
    assert result.as_numpy("label") is None
    assert (response.model_name, response.model_version) == ("binary", "1")
    assert response.parameters["variant"].string_param == "champion"


@pytest.mark.parametrize(
    ("model", "version", "columns", "code", "says"),
    [
        ("nobody", "", {"amount": np.array([1.0])}, "NOT_FOUND", "served models"),
        ("binary", "9", {"amount": np.array([1.0])}, "NOT_FOUND", "served models"),
        ("binary", "", {"amount": np.array([1.0])}, "INVALID_ARGUMENT", "count"),
        ("binary", "", {"amount": np.array([1.0]), "more": np.array([1])}, "INVALID_ARGUMENT", "more"),
        ("binary", "", {"amount": np.array(["x"], dtype=object), "count": np.array([1])}, "INVALID_ARGUMENT", "amount"),
        ("binary", "", {"amount": np.array([1.0]), "count": np.array([1, 2])}, "INVALID_ARGUMENT", "count"),
        ("binary", "", {"amount": np.array([np.inf]), "count": np.array([1])}, "INVALID_ARGUMENT", "infinity"),
        ("binary", "", {"amount": np.zeros(20_000), "count": np.zeros(20_000, int)}, "INVALID_ARGUMENT", "max_rows"),
    ],
)  # fmt: skip
def test_mistakes_are_statuses_with_reasons(
    client: triton.InferenceServerClient, model: str, version: str, columns: dict[str, np.ndarray], code: str, says: str
) -> None:
    """Each mistake has its code and names its place; the service goes on."""
    with pytest.raises(triton.InferenceServerException) as failure:
        client.infer(model, tensors(**columns), model_version=version)

    assert code in failure.value.status()
    assert says in failure.value.message()
    assert client.is_server_live()


def test_calls_are_counted(server: Server, client: triton.InferenceServerClient) -> None:
    """`/metrics` tells gRPC's requests and outcomes apart from the others'."""
    client.infer("regressor", tensors(amount=np.array([1.0]), count=np.array([1])))
    with pytest.raises(triton.InferenceServerException):
        client.infer("regressor", tensors(amount=np.array([1.0])))

    seen: set[str] = set()

    def counted() -> bool:
        # Each look is answered by one replica of perhaps several.
        for line in httpx.get(f"{server.url}/metrics").text.splitlines():
            if "zaphod_requests_total" in line and 'protocol="grpc"' in line and 'model="regressor"' in line:
                seen.update(outcome for outcome in ("ok", "unprocessable") if f'outcome="{outcome}"' in line)
        return seen == {"ok", "unprocessable"}

    wait_for(counted, what="both outcomes")
