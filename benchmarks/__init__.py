"""Measurements side by side, as ratios within one run: machines differ, and the same one differs from minute to minute.

atomic_update.py   an update of both services that commits everywhere or nowhere, against two that may not
overload.py        what is left of a server when far more is asked of it than it can do
wire.py            its callers: calls for a tenth of what a gRPC client costs

`make bench` and `make overload` run them. None is a test: nothing fails because a machine is slow.
"""
