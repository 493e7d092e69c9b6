"""What every server has for those who run it, beside the log and the metrics.

health.py       grpc.health.v1
readiness.py    lets it follow what the server cannot do without
periodic.py     work that is done again and again beside the calls
reflection.py   grpc.reflection, by which grpcurl learns the contracts
"""
