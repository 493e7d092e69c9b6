"""What every server is built on. A team's own service can be, too.

A service makes a `Server` of its servicers (`server.py`), raises the errors of `errors.py`, and asks
`call.current()` for the call at hand. The rest happens around it. A call passes, from the outside in:

    observe/            opens its record, and closes it with the code that the caller saw
    error_layer.py      turns exceptions into statuses
    admission.py        turns bytes into messages and back, and refuses what is too large or not for this method
    the handler

    call.py             the call at hand, and what is known of its method
    errors.py           what handlers raise
    error_table.py      what each error is to a caller: status codes, and what failures of the database amount to;
                        database_errors.py finds them there, error_mapping.py makes statuses, error_size.py cuts them
    server.py           puts it all together: start, serve, drain
    health.py, reflection.py, metrics.py, logs.py    what operators and their tools see
    handlers.py, status_codes.py, log_writer.py                 small things that the above share

    database.py, fair_lock.py, migrations.py, idempotency.py    a service's own data
    fields.py, paging.py, fingerprint.py                        requests: what to check, how to list, which is which
    clock.py                                                    the time
    crash_points.py                                             where tests make a server die
"""
