"""Requests: what to check, how to list, which is which.

fields.py        rules for fields that contracts share
paging.py        pages of a list
reply_room.py    how much fits into a reply
fingerprint.py   tells one request from another without keeping it
"""
