"""The outermost layer: every call is recorded once, with the code that its caller saw.

    interceptor    opens a record for each call, and hands the call on to the handler
    record         what is known of a call; closes once, and tells the reporters
    load           how many calls are in flight, and what is too many
    refusal        what becomes of calls that are too many, or come when the server stops, and how fast
    executor       the thread pools; closes the record when the call is over, even if no handler ever had it
    metrics        reports calls to Prometheus, with the names of go-grpc-middleware; serves /metrics
    status_codes   as Go spells them

Known limits. A call that grpcio refuses by itself is recorded with another code where it was larger than four times the
limit on messages. A deadline that passes while the reply is on its way, or in a flood before grpcio hands the call
over, is seen by the caller alone.
"""
