"""Spans of OpenTelemetry, by the tracer provider of the application: for calls, and for transactions.

attributes.py    the names of what spans say
spans.py         spans, and the metadata by which others learn of them: for the servers, too
channel.py       a channel whose calls are spans
transaction.py   the span of a transaction

All but attributes.py need OpenTelemetry, and are imported only where something is traced.
"""
