"""Takes what servers export by OTLP over gRPC, and looks at none of it.

python -m benchmarks.peers.collector
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

EXPORT: Any = grpc.unary_unary_rpc_method_handler(lambda request, context: b"")
SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Export": EXPORT}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
