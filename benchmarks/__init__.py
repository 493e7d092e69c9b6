"""Measurements side by side, as ratios within one run: machines differ, and the same one differs from minute to minute.

atomic_update.py   an update of both services that commits everywhere or nowhere, against two that may not
overload.py        what is left of a server when far more is asked of it than it can do
overload_go.py     the same, with grpc-go callers
wire.py            callers of overload.py: calls for a tenth of what a gRPC client costs

`make bench`, `make overload` and `make overload-go` run them. None is a test: nothing fails because a machine is slow.
"""
