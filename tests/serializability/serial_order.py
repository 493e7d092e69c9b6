"""Searches for a serial order of a few transactions that explains what they saw: its time is exponential."""

from __future__ import annotations

from collections.abc import Sequence

from tests.serializability.history import Initial, Outcome, Read, Transaction


def has_serial_order(history: Sequence[Transaction], initial: Initial) -> bool:
    """Whether there is an order of all committed transactions, and any of the unknown ones, in which each reads what
    was written last, and none comes before one that had ended when it began.
    """
    return _continues([each for each in history if each.outcome is not Outcome.ABORTED], {}, initial)


def _continues(left: Sequence[Transaction], state: dict[str, str], initial: Initial) -> bool:
    known = [each for each in left if each.outcome is Outcome.COMMITTED]
    if not known:
        return True
    first_end = min(each.ended for each in known)
    for chosen in left:
        if chosen.began <= first_end:
            after = _run(chosen, state, initial)
            if after is not None and _continues([each for each in left if each is not chosen], after, initial):
                return True
    return False


def _run(transaction: Transaction, state: dict[str, str], initial: Initial) -> dict[str, str] | None:
    """The state after it; None where it read something else."""
    state = dict(state)
    for operation in transaction.operations:
        if not isinstance(operation, Read):
            state[operation.object] = operation.value
        elif operation.value != state.get(operation.object, initial(operation.object)):
            return None
    return state
