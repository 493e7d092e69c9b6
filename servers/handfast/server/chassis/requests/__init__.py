"""What a service does with a request: it checks fields, reads pages of a list, recognizes a request that comes again.

fields.py        checks of fields that several contracts have
paging.py        page sizes, page tokens, and reading a page
reply_room.py    how many entries fit into one reply
fingerprint.py   a hash by which a request that comes again is recognized
"""
