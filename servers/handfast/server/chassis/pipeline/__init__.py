"""The way of a call through the chassis. Each is counted and logged once, with the code that its caller saw.

    layer.py          opens the call, reads its request, writes its reply; ends it with a status where something raises
    pools.py          counts calls; how many each pool of threads takes, and the threads; closes the call when it is
                      over, even if no handler ever had it
    metrics.py        shows what is counted, with the names of go-grpc-middleware; serves /metrics
    refusal.py        what becomes of calls that are too many, or come when the server stops, and how fast
    outlet.py         replies that are sent when there is news, for methods that push
    status_codes.py   as Go spells them

`logs/writer.py` writes the line of each call, `errors/mapping.py` ends those that fail, and `cancellation.py` wakes
what a call waits for.
"""
