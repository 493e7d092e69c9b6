"""Measurements side by side, as ratios within one run: machines differ, and the same one differs from minute to minute.

__main__.py        `python -m benchmarks`: which rows, how long
rows.py            the rows: what is measured beside what, and the ratio to reach
sides.py           what the sides of the rows start, and which calls they get
peers/             what the suite is measured beside
harness.py         how two sides are compared: in turns, round by round
calls.py           servers as sides: callers, CPU time, no call may fail
place.py           where sides are started: databases, suites, peers, each on its processors
fill.py            databases that are full from the start
report.py          tables and a chart
wire.py, http1.py  calls for a tenth of what a client costs
growth.py          what a load takes: processors, connections, storage
overload.py        what is left of a server when far more is asked of it than it can do
overload_go.py     the same, with grpc-go callers

`make bench`, `make overload` and `make overload-go` run them. None is a test: nothing fails because a machine is slow.
"""
