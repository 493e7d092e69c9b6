"""Who calls.

identity.py         who a caller is, as a token or a client certificate proves it
"""
