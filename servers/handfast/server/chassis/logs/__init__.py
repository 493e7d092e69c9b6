"""The log: JSON, one object a line, on stderr, without personal data.

log.py          sets up the log
values.py       what a line shows of a value
tracebacks.py   what a line shows of an exception
redaction.py    keeps the values of marked fields out of both
writer.py       the line of each call, and the thread that writes lines
"""
