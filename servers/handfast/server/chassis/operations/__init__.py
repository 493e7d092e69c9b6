"""What every server has for those who run it, beside the log and the metrics.

health.py       grpc.health.v1
readiness.py    turns health off while a database is away, and on again
periodic.py     repeats a piece of background work
endpoint.py     /metrics, and /livez and /readyz for probes, by HTTP
reflection.py   grpc.reflection, from which grpcurl learns the contracts
"""
