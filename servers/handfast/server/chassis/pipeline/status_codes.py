"""gRPC status codes as Go spells them, for logs and metrics: dashboards made for go-grpc-middleware read both."""

from __future__ import annotations

import grpc

_IRREGULAR = {grpc.StatusCode.OK: "OK", grpc.StatusCode.CANCELLED: "Canceled"}

GO_NAMES = {code: _IRREGULAR.get(code) or code.name.title().replace("_", "") for code in grpc.StatusCode}
