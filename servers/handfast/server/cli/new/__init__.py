"""`handfast new`: begins something of one's own.

    service.py    a service that takes part in transactions, written from `templates/`

A file of `templates/service/` is a `string.Template`, written without its `.tmpl`; `NAME` in its path is the service's.
"""
