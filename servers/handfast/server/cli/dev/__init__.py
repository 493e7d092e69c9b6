"""Credentials for development: `handfast dev-credentials`, `handfast dev-token` and `handfast up --secure`.

They are not for production, since the keys that sign certificates and tokens lie beside what they have signed.

    folder.py        the folder: what is in it, how it is made, and what servers and clients are told of it
    certificates.py  a CA, and the certificates that it signs
    tokens.py        a key that signs tokens, and the tokens
"""
