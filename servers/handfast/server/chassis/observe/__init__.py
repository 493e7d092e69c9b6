"""The outermost layer: every call is recorded once, with the code that its caller saw.

    interceptor    opens a record for each call, and hands the call on to the handler
    record         what is known of a call; closes once, and tells the reporters
    load           how many calls are in flight, and what is too many
    executor       the thread pools; closes the record when the call is over, even if no handler ever had it

Known limits: a call that grpcio refuses by itself is recorded as CANCELLED where it was larger than four times the
limit on messages, and a deadline that passes while the reply is on its way is seen by the caller alone.
"""
