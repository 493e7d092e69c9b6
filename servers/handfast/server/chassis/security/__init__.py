"""Who calls, and what they may do.

Each call meets `Guard.admit` (guard.py) before its request is read. The guard has the `Authenticator` find the identity
of the caller, and compares its scopes with the permission that the contract of the method declares. Where it depends on
the request whether the caller may make it, `Guard.check_request` looks at that next, before an interceptor or the
handler gets it. Without `--authentication` there is no guard, and no call has an identity.

    guard.py          lets a call pass, or refuses it

who calls
    identity.py       the identity of a caller, as a token or a client certificate proves it
    authenticator.py  finds it out for a call, and remembers good tokens
    tokens.py         what a token must say, how it must be signed, and which are revoked
    keys.py           the public keys that tokens are signed with
    holder.py         the name of who holds a client certificate
    grants.py         the scopes of those names
    sources.py        reads keys, revoked tokens and grants again while the server runs
    fetching.py       one bounded request of a URL
    callers.py        the name of a caller, under which a server keeps what belongs to it

what they may do
    permission.py     what a contract says of who may call a method
    check.py          a command that names the methods whose contracts do not say it
    rate.py           how many calls each identity may make in a time
    audit.py          the lines of the log that say who has changed what, and who was refused

by which connections
    transport.py      the certificates of the server's ports, read again when they change

Each of these words has one meaning here:

    identity    who makes a call, as it is proven, and with which scopes
    subject     whom a token stands for, as its issuer calls them; resources with that id are the caller's own
    scope       a word for what an identity may do, such as `users.read`
    caller      the name, of 32 hexadecimal digits, under which a server keeps what belongs to whoever calls
    owner       (of a transaction) the caller that has begun it
"""
