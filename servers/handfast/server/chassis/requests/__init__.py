"""What services do with requests.

fields.py   checks of fields that several contracts have
paging.py   pages of a list, and how much fits into one reply
"""
