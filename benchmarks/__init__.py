"""Measurements side by side, as ratios within one run: machines differ, and the same one differs from minute to minute.

atomic_update.py   an update of both services that commits everywhere or nowhere, against two that may not

`make bench` runs them all. None is a test: nothing fails because a machine is slow.
"""
