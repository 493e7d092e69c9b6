"""What a PromQL expression reads, and which labels its result has, given the series that there are.

Prometheus says nothing of a metric that nobody exports, of a label that it does not have, or of a value that no series
carries: the result is empty. Here each of these is a Mistake.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Set

import promql_parser as promql

Series = Mapping[str, Mapping[str, Collection[str]]]
"""The values of each label of each metric, by the metric's name."""

_SET_OPERATORS = {"and", "or", "unless"}
_CHOOSE_SERIES = {"topk", "bottomk"}
_NOT_KNOWN_HERE = {"absent_over_time", "info", "label_join", "label_replace"}


class Mistake(Exception):
    """What is wrong with an expression, for who wrote it."""


def labels_of(expression: str, series: Series) -> Set[str]:
    """The labels of the result; none where it is a scalar. Raises Mistake."""
    try:
        parsed = promql.parse(expression)
    except ValueError as error:
        raise Mistake(f"{expression}: {error}") from None
    return _labels(parsed, series) or frozenset()


def _labels(expression: promql.Expr, series: Series) -> Set[str] | None:
    """None where the result is a scalar or a string."""
    match expression:
        case promql.NumberLiteral() | promql.StringLiteral():
            return None
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            return _labels(expression.expr, series)
        case promql.MatrixSelector():
            return _of_selector(expression.vector_selector, series)
        case promql.VectorSelector():
            return _of_selector(expression, series)
        case promql.Call():
            return _of_call(expression, series)
        case promql.AggregateExpr():
            return _of_aggregation(expression, series)
        case promql.BinaryExpr():
            return _of_operator(expression, series)
    raise Mistake(f"{expression}: its kind is not known here")


def _of_selector(selector: promql.VectorSelector, series: Series) -> Set[str]:
    if selector.name is None or selector.matchers.or_matchers:
        raise Mistake(f"{selector}: should name one metric")
    if selector.name not in series:
        raise Mistake(f"{selector}: nobody exports {selector.name}")
    labels = series[selector.name]
    for matcher in selector.matchers.matchers:
        _there([matcher.name], labels.keys(), selector)
        is_pattern = matcher.op in (promql.MatchOp.Re, promql.MatchOp.NotRe)
        # Each alternative by itself: a misspelt one would hide behind the others.
        for alternative in matcher.value.split("|") if is_pattern else [re.escape(matcher.value)]:
            if not any(re.fullmatch(alternative, value) for value in labels[matcher.name]):
                raise Mistake(f"{selector}: no {matcher.name} of {selector.name} is {alternative}")
    return labels.keys()


def _of_call(call: promql.Call, series: Series) -> Set[str] | None:
    name = call.func.name
    if name in _NOT_KNOWN_HERE:
        raise Mistake(f"{call}: what {name} makes of labels is not known here")
    if name == "absent" and isinstance(call.args[0], promql.VectorSelector):
        _of_selector(call.args[0], series)
        return {each.name for each in call.args[0].matchers.matchers if each.op == promql.MatchOp.Equal}
    vectors = [labels for labels in (_labels(argument, series) for argument in call.args) if labels is not None]
    if name == "histogram_quantile":
        return vectors[0] - _there(["le"], vectors[0], call)
    if call.func.return_type == promql.ValueType.Scalar:
        return None
    return vectors[0] if vectors else frozenset()


def _of_aggregation(aggregation: promql.AggregateExpr, series: Series) -> Set[str]:
    labels = _labels(aggregation.expr, series) or frozenset()
    modifier = aggregation.modifier
    named = _there(modifier.labels, labels, aggregation) if modifier else frozenset()
    if str(aggregation.op) in _CHOOSE_SERIES:
        return labels
    return labels - named if modifier and modifier.type == promql.AggModifierType.Without else named


def _of_operator(operation: promql.BinaryExpr, series: Series) -> Set[str] | None:
    left, right = _labels(operation.lhs, series), _labels(operation.rhs, series)
    if left is None or right is None:
        return left if right is None else right
    operator, modifier = str(operation.op), operation.modifier
    if operator == "or":
        return left & right
    if modifier is not None and modifier.group_labels is not None:
        raise Mistake(f"{operation}: what group_left and group_right make of labels is not known here")
    matching = modifier.matching if modifier else None
    on = left | right
    if matching is not None:
        named = _there(matching.labels, on, operation)
        on = named if matching.type == promql.LabelModifierType.Include else on - named
    _there(on, left & right, operation)  # or nothing ever matches
    return left if operator in _SET_OPERATORS else on


def _there(named: Collection[str], labels: Set[str], where: promql.Expr) -> frozenset[str]:
    if missing := set(named) - labels:
        raise Mistake(f"{where}: there is no label {', '.join(sorted(missing))} beside {', '.join(sorted(labels))}")
    return frozenset(named)
