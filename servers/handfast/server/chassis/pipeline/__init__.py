"""The way of a call through the chassis. Each is counted and logged once, with the code that its caller saw.

    layer.py      opens the call, reads its request, writes its reply; ends it with a status where something raises
    pools.py      counts calls, limits how many each pool takes at once, and has the threads; receives requests, and
                  records each call at its end, even if no handler ever had it
    metrics.py    shows what is counted, with the names of go-grpc-middleware; serves /metrics
    refusal.py    refuses calls that are too many or come when the server stops, and not too fast
    outlet.py     sends replies when there is news, for methods that push

`logs/writer.py` writes the line of each call, `errors/mapping.py` ends those that fail, and `cancellation.py` wakes
what a call waits for.
"""
