"""The log: JSON, one object a line, on stderr, without personal data.

log.py          what a line has, and the line of each call
redaction.py    what of messages must not be printed
unescaped.py    one form of texts and what they were escaped to
values.py       how the values of a line are said
tracebacks.py   how exceptions are said
writer.py       a thread that writes, so that a pipe which nobody empties holds up no call
"""
