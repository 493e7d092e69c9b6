"""The log: JSON, one object a line, on stderr, without personal data.

log.py          sets up the log, and writes the line of each call
values.py       what a line shows of a value
tracebacks.py   what a line shows of an exception
redaction.py    keeps the values of marked fields out of both
writer.py       a thread that writes lines, so that a pipe which nobody reads holds up no call
"""
