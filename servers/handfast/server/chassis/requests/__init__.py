"""Requests: what to check, how to list, which is which.

fields.py        rules for fields that contracts share
paging.py        pages of a list
fingerprint.py   tells one request from another without keeping it
"""
