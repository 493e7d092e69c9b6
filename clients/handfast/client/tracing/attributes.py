"""The names of what spans say: those of the semantic conventions for gRPC, and Handfast's own."""

from __future__ import annotations

SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
"""The version of the semantic conventions."""
RPC = {"rpc.system.name": "grpc"}
METHOD, STATUS_CODE, ERROR_TYPE = "rpc.method", "rpc.response.status_code", "error.type"
SERVER_ADDRESS, SERVER_PORT = "server.address", "server.port"
TRANSACTION_ID, OUTCOME = "handfast.transaction_id", "handfast.outcome"
