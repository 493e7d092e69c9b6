"""What a call is recorded as, from what is known at its end. `test_accounting.py` does so with real calls."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from handfast.server.chassis.call import Call, Method, Pool
from handfast.server.chassis.observe.record import REFUSALS, Record, Refused

OK, LATE = grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED
GONE, STOPPED, MISSING = grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED
POOL = Pool("calls", 1)
FAR = 1e9


def new_record(refused: Refused | None = None, reporters: Any = ()) -> Record:
    return Record(Call.received(Method("/s/m", "s", "m", "unary", "s", POOL), "/s/m", ()), refused, reporters)


@pytest.mark.parametrize(
    ("decided", "sent", "deadline", "left_at", "stopped", "cut", "code"),
    [
        (OK, True, FAR, None, False, "", OK),
        (OK, True, -1.0, 0.0, True, "", OK),
        (None, True, FAR, None, False, "", MISSING),
        (OK, False, FAR, 0.0, False, "", GONE),
        (None, False, FAR, None, False, "", GONE),
        (OK, False, FAR, 0.0, True, "", STOPPED),
        (OK, False, 100.0, 99.5, False, "", LATE),  # a caller leaves a little before its deadline
        (OK, False, 100.0, 98.5, False, "", GONE),
        (OK, False, 0.5, 0.495, False, "", LATE),
        (OK, False, 0.5, 0.48, False, "", GONE),
        (OK, False, 100.0, 99.5, True, "", LATE),
        (OK, False, -1.0, None, False, "", LATE),
        (None, False, FAR, None, False, "it waited", LATE),
        (None, True, FAR, None, False, "it waited", LATE),
        (OK, False, FAR, 0.0, True, "it waited", LATE),
        (OK, True, FAR, None, False, "it waited", OK),  # it had ended before
    ],
)
def test_a_call_is_recorded_as_its_caller_saw_it(
    decided: grpc.StatusCode | None,
    sent: bool,
    deadline: float,
    left_at: float | None,
    stopped: bool,
    cut: str,
    code: grpc.StatusCode,
) -> None:
    """`deadline` and `left_at` are seconds after the call's arrival."""
    record = new_record()
    record.code, record.call.cut = decided, cut
    record.over = None if left_at is None else record.arrived + left_at
    record.close(status_sent=sent, deadline=record.arrived + deadline, server_stopped=stopped)
    assert record.code is code


def test_each_reporter_is_told_once_how_it_ended() -> None:
    told: list[Any] = []
    record = new_record(reporters=[lambda each: told.append((each.code, each.call.context is not None))] * 2)
    call: Any = record.call
    call.context = call.cancel = object()
    record.close(status_sent=False, deadline=record.arrived + FAR, server_stopped=False)
    assert told == [(GONE, True)] * 2
    assert (call.context, call.cancel) == (None, None)
    assert record.seconds > 0


@pytest.mark.parametrize("over_first", [False, True])
def test_what_waits_for_the_end_is_done_once(over_first: bool) -> None:
    record, done = new_record(), []
    if over_first:
        record.note_over()
    record.when_over(lambda: done.append(record.over))
    assert len(done) == int(over_first)
    record.note_over()
    record.note_over()
    assert len(done) == 1
    assert done[0] is not None


def test_a_call_that_is_refused_is_with_those_that_refuse() -> None:
    assert new_record().pool is POOL
    assert new_record(Refused.OVERLOADED).pool is REFUSALS
