"""The methods by which Ray's gRPC server finds the service on a replica: named as in the protocol."""

# No `from __future__ import annotations`: Ray looks at the signatures of a deployment's methods.

from typing import Any

from ray.serve.grpc_util import RayServegRPCContext

from deployments.grpc_service import InferenceService


class GrpcMethods:
    """A deployment that has `service` and inherits from here serves `GRPCInferenceService`."""

    service: InferenceService

    async def ServerLive(self, request: Any, grpc_context: RayServegRPCContext) -> Any:  # noqa: N802  # the protocol's names
        return await self.service.call("ServerLive", request, grpc_context)

    async def ServerReady(self, request: Any, grpc_context: RayServegRPCContext) -> Any:  # noqa: N802
        return await self.service.call("ServerReady", request, grpc_context)

    async def ModelReady(self, request: Any, grpc_context: RayServegRPCContext) -> Any:  # noqa: N802
        return await self.service.call("ModelReady", request, grpc_context)

    async def ServerMetadata(self, request: Any, grpc_context: RayServegRPCContext) -> Any:  # noqa: N802
        return await self.service.call("ServerMetadata", request, grpc_context)

    async def ModelMetadata(self, request: Any, grpc_context: RayServegRPCContext) -> Any:  # noqa: N802
        return await self.service.call("ModelMetadata", request, grpc_context)

    async def ModelInfer(self, request: Any, grpc_context: RayServegRPCContext) -> Any:  # noqa: N802
        return await self.service.call("ModelInfer", request, grpc_context)
