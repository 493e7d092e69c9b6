"""The metrics of transactions, beside those of calls; docs/observability.md says what each tells.

What is in doubt is looked up in the database when it is scraped, so every replica on that database says the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import sqlalchemy as sa
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from handfast.server.chassis.clock import MICROSECONDS_PER_SECOND, Clock, now
from handfast.server.chassis.errors import ReasonEnum, reason_name
from handfast.server.transactions import wire
from handfast.server.transactions.coordinator.decision_store import DecisionRow, DecisionStore
from handfast.server.transactions.coordinator.notifier import DecisionNotifier
from handfast.server.transactions.core.model import Outcome
from handfast.server.transactions.horizon import Prunable
from handfast.server.transactions.participant import Participant

OTHER = "other"
OF_THE_SUITE = frozenset({"REQUEST_REPEATED", "ROLLED_BACK", "ROLLED_BACK_BY_OPERATOR"})
"""Reasons that no error carries: of the coordinator, of the client, and of `handfast transactions resolve`."""

UNCONFIGURED = "handfast_transactions_unconfigured"
NOT_LOOKED_UP = "what is in doubt could not be looked up"

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_LABELS = {outcome: outcome.value.lower() for outcome in Outcome}

_log = structlog.get_logger()


class CoordinatorMetrics:
    """Observes decisions. `reasons` are the enums of reasons that are counted by name; all others, which
    callers are free to invent, count as `other`.
    """

    def __init__(self, registry: CollectorRegistry, reasons: Iterable[ReasonEnum[Any]]) -> None:
        self._reasons = OF_THE_SUITE.union(reason_name(enum, value) for enum in reasons for value in enum.values())
        text = "Transactions decided here, by outcome; aborted ones by reason."
        self._decided = Counter("handfast_transactions_decided", text, ("outcome", "reason"), registry=registry)
        text = "Time from the minting of a transaction to its decision."
        self._decide_seconds = _by_outcome(registry, "handfast_transaction_decide_seconds", text)
        text = "Time from a decision until all participants finished."
        self._finish_seconds = _by_outcome(registry, "handfast_transaction_finish_seconds", text)
        # Looked up once: to look up the metric of some labels costs more than to count.
        self._committed = self._decided.labels(_LABELS[Outcome.COMMITTED], "")

    def decided(self, row: DecisionRow) -> None:
        decision = row.decision
        if decision.outcome is Outcome.COMMITTED:
            self._committed.inc()
        else:
            reason = decision.abort_reason if decision.abort_reason in self._reasons else OTHER
            self._decided.labels(_LABELS[decision.outcome], reason).inc()
        minted = wire.minted_at(decision.transaction_id)
        self._decide_seconds[decision.outcome].observe(_seconds(minted, row.decide_time))

    def finished(self, outcome: Outcome, decide_time: int, finish_time: int) -> None:
        self._finish_seconds[outcome].observe(_seconds(decide_time, finish_time))


def export_coordinator(
    registry: CollectorRegistry,
    decisions: DecisionStore,
    notifier: DecisionNotifier,
    reasons: Iterable[ReasonEnum[Any]],
    clock: Clock = now,
) -> None:
    """Observes decisions from now on, as CoordinatorMetrics does, and shows how many some participant has not
    confirmed, how old the oldest of them is, how many some participant cannot follow, and how many wait for one that is
    not configured."""
    metrics = CoordinatorMetrics(registry, reasons)
    text = "Times that an operator let a participant finish a transaction without what it had lost."
    decisions.on_loss_accepted = Counter("handfast_losses_accepted", text, registry=registry).inc
    decisions.on_decided, decisions.on_finished = metrics.decided, metrics.finished
    _on_every_server(registry, "Decisions that some participant has not confirmed.", decisions, clock)
    registry.register(_Unconfigured(decisions, notifier))
    text = "Decisions that some participant cannot follow, for what it has lost or fails to apply."
    Gauge("handfast_transactions_lost", text, registry=registry).set_function(lambda: notifier.lost)


class _Unconfigured(Collector):
    """How many decisions wait for each participant that is not configured; 0 for those that are. No value where the
    database fails.
    """

    def __init__(self, decisions: DecisionStore, notifier: DecisionNotifier) -> None:
        self._decisions, self._notifier = decisions, notifier

    def collect(self) -> Iterator[Metric]:
        text = "Decisions that wait for a participant that is not configured, so that nobody notifies it."
        family = GaugeMetricFamily(UNCONFIGURED, text, labels=["participant"])
        try:
            with self._decisions.database.read() as connection:
                counts = self._notifier.unconfigured(connection)
        except SQLAlchemyError as error:
            _log.warning(NOT_LOOKED_UP, metric=UNCONFIGURED, error=type(error).__name__)
            return
        for participant, count in {**dict.fromkeys(self._notifier.by_participant, 0), **counts}.items():
            family.add_metric([participant], count)
        yield family


def export_participant(registry: CollectorRegistry, participant: Participant) -> None:
    """Shows how many branches are unfinished, how old the oldest of them is, and how often a change is found lost."""
    _on_every_server(registry, "Branches of transactions that are not finished here.", participant.store.branches, now)
    text = "Times that a decided change was found lost or failed here; the same one again whenever somebody asks."
    participant.finisher.on_lost = Counter("handfast_committed_changes_lost", text, registry=registry).inc
    text = "Times that a write met a change of another transaction that is not finished here, decided or not."
    met = Counter("handfast_pending_changes_met", text, ("state",), registry=registry)
    decided, undecided = met.labels("decided"), met.labels("undecided")
    participant.on_met = lambda is_decided: (decided if is_decided else undecided).inc()


def _on_every_server(registry: CollectorRegistry, in_doubt: str, records: Prunable, clock: Clock) -> None:
    """What both kinds of servers show: the clock, how many transactions are in doubt, and how old the oldest is."""
    text = "The clock of the server, in seconds since the epoch."
    Gauge("handfast_clock_seconds", text, registry=registry).set_function(lambda: now() / MICROSECONDS_PER_SECOND)

    def age(connection: sa.Connection) -> float:
        transaction_id = records.oldest_unfinished(connection)
        return 0.0 if transaction_id is None else _seconds(wire.minted_at(transaction_id), clock())

    def looked_up(name: str, text: str, look_up: Callable[[sa.Connection], float]) -> None:
        def measure() -> float:
            try:
                with records.database.read() as connection:
                    return look_up(connection)
            except SQLAlchemyError as error:  # the other metrics are wanted most just then
                _log.warning(NOT_LOOKED_UP, metric=name, error=type(error).__name__)
                return math.nan

        Gauge(name, text, registry=registry).set_function(measure)

    looked_up("handfast_transactions_in_doubt", in_doubt, records.count_unfinished)
    text = "Time since the minting of the oldest transaction in doubt; 0 where there is none."
    looked_up("handfast_transactions_in_doubt_oldest_seconds", text, age)


def _by_outcome(registry: CollectorRegistry, name: str, text: str) -> dict[Outcome, Histogram]:
    histogram = Histogram(name, text, ("outcome",), registry=registry, buckets=_BUCKETS)
    return {outcome: histogram.labels(label) for outcome, label in _LABELS.items()}


def _seconds(start: int, end: int) -> float:
    """Between two times in microseconds; 0 where clocks of two machines have the end before the start."""
    return max(0, end - start) / MICROSECONDS_PER_SECOND
