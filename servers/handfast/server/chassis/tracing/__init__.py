"""Spans of OpenTelemetry, on the server's side. Calls to peers are traced by the client (`handfast.client.tracing`).

    spans.py        what is a span within a call, for those who know nothing of OpenTelemetry: nothing, without tracing

These are imported with tracing only, and OpenTelemetry with them:

    calls.py        a span for each call, as the pipeline reports it, and exemplars for how long it took
    recorder.py     the spans of a transaction's phases, and of what is done for it later
    database.py     a span for each local transaction
    sampler.py      which traces are recorded
    environment.py  checks the standard variables OTEL_…
    sdk.py          sets the SDK up by them
"""
