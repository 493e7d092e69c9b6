"""Whether a history of transactions is strictly serializable, and if not, what is wrong with it.

It is when there is an order of its transactions, in keeping with the times, in which each reads what was written last.
The check is that of Elle (Kingsbury and Alvaro, "Elle: inferring isolation anomalies from experimental observations",
VLDB 2020). Values tell who read whose version, and in which order versions followed each other. That gives a graph of
who comes before whom:

ww  one wrote a version of an object, and the other a later one
wr  the other read the version that the one wrote
rw  the one read a version, and the other wrote a later one
rt  the one had ended when the other began

A cycle is an anomaly, with a name from Adya ("Weak consistency", PhD thesis, MIT, 1999). Where every transaction reads
what it writes, the order of all versions is known, and an anomaly is found exactly if there is one. Where blind writes
overlap, their order is left open: what is reported is an anomaly, but some may be missed.

The time that it takes grows with the length of the history, hardly faster. Edges of kind rt are not drawn: where a
cycle has two of them, one of both allows a shortcut past the other, as times are intervals. So a cycle with any of them
is a path of other edges to a transaction that had ended when the first of the path began.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import networkx as nx

from tests.serializability.dependencies import Dependencies, Edge, Kind, StrangeRead
from tests.serializability.history import Initial, Transaction

ALL = Kind.WW | Kind.WR | Kind.RW
SEARCHES = (
    (Kind.WW, Kind.WW),
    (Kind.WR, Kind.WW | Kind.WR),
    (Kind.RW, Kind.WW | Kind.WR),
    (Kind.RW, ALL),
)
"""For cycles, the worst first: of which kind one edge is, and of which kinds the others are."""
G0, G1C, G_SINGLE, G2 = "G0", "G1c", "G-single", "G2"
MEANING = {G0: "write cycle", G1C: "circular information flow", G_SINGLE: "read skew", G2: "write skew"}
LOST_UPDATE = "lost update"
MOST_TRIED = 200
"""From how many edges it looks for the shortest cycle, at the most."""
MOST_TOLD = 20
"""How many anomalies of one sort it reports, at the most."""

Edges = dict[tuple[Transaction, Transaction], dict[Kind, Edge]]


@dataclass(frozen=True, slots=True)
class Anomaly:
    """`transactions` are those of the cycle, in its order, or the one that read something strange."""

    name: str
    transactions: tuple[Transaction, ...]
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n    ".join((self.name, *self.lines))


def check(history: Sequence[Transaction], initial: Initial) -> list[Anomaly]:
    """Reads that are wrong in themselves, the shortest of the worst cycles among any transactions that are on cycles
    together, and the first contradictions to the times.
    """
    dependencies = Dependencies(history, initial)
    edges: Edges = defaultdict(dict)
    for edge in dependencies.edges():
        edges[edge.before, edge.after].setdefault(edge.kind, edge)
    graph: nx.DiGraph[Transaction] = nx.DiGraph(edges.keys())
    cyclic = [component for component in nx.strongly_connected_components(graph) if len(component) > 1]
    cycles = [_shortest_cycle(edges, graph.subgraph(component)) for component in cyclic[:MOST_TOLD]]
    graph.remove_nodes_from(itertools.chain(*cyclic))
    cycles += [_edges(edges, path) for path in itertools.islice(_against_time(graph), MOST_TOLD)]
    return [*map(_strange, itertools.islice(dependencies.strange_reads(), MOST_TOLD)), *map(_cycle, cycles)]


def _shortest_cycle(edges: Edges, component: nx.DiGraph[Transaction]) -> list[Edge]:
    for kind, kinds in SEARCHES:
        allowed = (pair for pair in component.edges if any(each in kinds for each in edges[pair]))
        others: nx.DiGraph[Transaction] = nx.DiGraph(allowed)
        shortest: list[Transaction] = []
        for one, other in itertools.islice((pair for pair in component.edges if kind in edges[pair]), MOST_TRIED):
            with contextlib.suppress(nx.NetworkXNoPath, nx.NodeNotFound):
                path = nx.shortest_path(others, other, one)
                shortest = min(shortest or path, path, key=len)
        if shortest:
            return [*_edges(edges, shortest, kinds), edges[shortest[-1], shortest[0]][kind]]
    raise AssertionError("what is strongly connected has a cycle")


def _against_time(graph: nx.DiGraph[Transaction]) -> Iterator[list[Transaction]]:
    """Shortest paths, to those who come after somebody who had not begun when they ended. `graph` has no cycle."""
    last_begin = dict[Transaction, float]()
    early = set[Transaction]()
    for each in nx.topological_sort(graph):
        before = list(graph.predecessors(each))
        last_begin[each] = max([each.began, *(last_begin[one] for one in before)])
        if each.last_moment < last_begin[each]:
            early.add(each)
            if early.isdisjoint(before):
                yield _path_from_later(graph, each)


def _path_from_later(graph: nx.DiGraph[Transaction], last: Transaction) -> list[Transaction]:
    to: dict[Transaction, Transaction] = {}
    for one, before in nx.bfs_edges(graph, last, reverse=True):
        to[before] = one
        if before.began > last.last_moment:
            path = [before]
            while path[-1] is not last:
                path.append(to[path[-1]])
            return path
    raise AssertionError("somebody before it had not begun")


def _edges(edges: Edges, path: Sequence[Transaction], kinds: Kind = ALL) -> list[Edge]:
    found = (edges[pair] for pair in itertools.pairwise(path))
    return [next(each[kind] for kind in kinds if kind in each) for each in found]


def _cycle(edges: Sequence[Edge]) -> Anomaly:
    """Of these edges, and one of time where they end elsewhere than they began."""
    if edges[-1].after is edges[0].before:
        first = min(range(len(edges)), key=lambda index: edges[index].before.began)
        edges = [*edges[first:], *edges[:first]]
    transactions, steps = [edge.before for edge in edges], [str(edge) for edge in edges]
    if edges[-1].after is transactions[0]:
        name = LOST_UPDATE if _is_lost_update(edges) else f"{_name(edges)} ({MEANING[_name(edges)]})"
    else:
        name = f"{_name(edges)}-realtime"
        transactions.append(edges[-1].after)
        steps.append("rt: had ended before the beginning of")
    lines = itertools.chain(*((str(each), f"    {step}") for each, step in zip(transactions, steps, strict=True)))
    return Anomaly(name, tuple(transactions), (*lines, str(transactions[0])))


def _name(edges: Sequence[Edge]) -> str:
    kinds = Counter(edge.kind for edge in edges)
    if kinds[Kind.RW]:
        return G_SINGLE if kinds[Kind.RW] == 1 else G2
    return G1C if kinds[Kind.WR] else G0


def _is_lost_update(edges: Sequence[Edge]) -> bool:
    """Two read the same version, and both replaced it."""
    return len({edge.version for edge in edges}) == 1 and all(edge.kind is Kind.RW for edge in edges)


def _strange(read: StrangeRead) -> Anomaly:
    written = f", written by\n    {read.writer}" if read.writer else ""
    lines = (str(read.transaction), f"    read {'='.join(read.version)}{written}")
    return Anomaly(read.name, (read.transaction,), lines)
