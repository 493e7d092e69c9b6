"""Who calls, and what they may do.

identity.py       who a caller is, as a token or a client certificate proves it
permission.py     what a contract says of who may call a method
check.py          a command that names the methods whose contracts do not say it
"""
