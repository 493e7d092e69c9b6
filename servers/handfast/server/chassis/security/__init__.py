"""Who calls, and what they may do.

transport.py        certificates of the server's ports, read again when they change
identity.py       who a caller is, as a token or a client certificate proves it
authenticator.py  finds that out of a call, and remembers good tokens
tokens.py         what a token must say, and how it must be signed
keys.py           the public keys that tokens are signed with
revoked.py        tokens that count no more
grants.py         what the names of client certificates may do
sources.py        reads these three again while the server runs
fetching.py       one bounded request of a URL
callers.py        under which name a server keeps what is a caller's; who may call on behalf of another
permission.py     what a contract says of who may call a method
guard.py          asks who calls, and refuses those who may not
rate.py           how many calls each caller may make in a time
audit.py          the lines of the log that say who has changed what, and who was refused
check.py          a command that names the methods whose contracts do not say it
"""
