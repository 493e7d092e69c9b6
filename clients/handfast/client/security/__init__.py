"""How a client proves who it is, and whom it talks to: TLS, and a token that its calls carry.

tls.py           `TLS`: the files of certificates and keys, read again when they change
secret_files.py  keys and tokens in files, which others than their owner must not reach
tokens.py        where the token comes from, and when it is asked for again
security.py      both together: what each call carries, and which calls are made once more
secured_call.py  calls that go out when there is a token for them, and are made once more where that helps
given.py         both as a program gives them, or, by environment.py, variables such as HANDFAST_CA
channel.py       the synchronous gRPC channel that has them; `handfast.client.aio.secured` is that for asyncio

Nothing here is on the way of a call in plain text without a token, and but for given.py nothing is loaded.
"""
