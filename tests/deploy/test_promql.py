"""The labels of an expression, and the mistakes that would make its result empty."""

from __future__ import annotations

import pytest

from tests.deploy.promql import Mistake, labels_of

SERIES = {
    "calls_total": {"job": {"users", "accounts"}, "code": {"OK", "Internal", "Unavailable"}},
    "seconds_bucket": {"job": {"users"}, "le": {"1.0", "+Inf"}},
    "threads": {"job": {"users"}},
}


@pytest.mark.parametrize(
    ("expression", "labels"),
    [
        ("1 + 1", ""),
        ("calls_total", "job code"),
        ('calls_total{code=~"Internal|Un.+", job="users"} > 5', "job code"),
        ("sum(rate(calls_total[5m]))", ""),
        ("sum by (job) (rate(calls_total[5m]))", "job"),
        ("sum without (code) (calls_total) / on (job) threads", "job"),
        ("calls_total and on (job) threads", "job code"),
        ("max_over_time(sum by (code) (calls_total)[1h:1m])", "code"),
        ("histogram_quantile(0.9, sum by (job, le) (rate(seconds_bucket[5m])))", "job"),
        ("topk(3, calls_total)", "job code"),
        ('threads == 0 or absent(threads{job="users"})', "job"),
        ("vector(1)", ""),
        ("calls_total > scalar(threads)", "job code"),
    ],
)
def test_labels(expression: str, labels: str) -> None:
    assert labels_of(expression, SERIES) == set(labels.split())


@pytest.mark.parametrize(
    ("expression", "mistake"),
    [
        ("sum by (job (calls_total)", "sum by"),
        ("rate(cals_total[5m])", "nobody exports cals_total"),
        ('{code="OK"}', "should name one metric"),
        ('sum(calls_total{cod="OK"})', "no label cod beside"),
        ('calls_total{code="Ok"}', "no code of calls_total is Ok"),
        ('calls_total{code=~"OK|Unavailible"}', "no code of calls_total is Unavailible"),
        ('calls_total{code!="Ok"}', "no code of calls_total is Ok"),
        ('absent(threads{job="user"})', "no job of threads is user"),
        ("sum by (instance) (calls_total)", "no label instance"),
        ("sum without (instance) (calls_total)", "no label instance"),
        ("sum by (code) (sum by (job) (calls_total))", "no label code"),
        ("histogram_quantile(0.9, sum by (job) (rate(seconds_bucket[5m])))", "no label le"),
        ("calls_total / threads", "no label code"),
        ("calls_total unless threads", "no label code"),
        ("threads and on (code) calls_total", "no label code"),
        ("threads * on (job) group_right calls_total", "not known here"),
    ],
)
def test_mistakes(expression: str, mistake: str) -> None:
    with pytest.raises(Mistake, match=mistake):
        labels_of(expression, SERIES)
