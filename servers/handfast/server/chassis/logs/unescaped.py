"""Texts in one form, whatever wrote them: a value and what Python, JSON or protobuf made of it have it in common.

All escapes say what they stand for with a backslash before it. So backslashes are left out, however many there are, as
each further escape only adds some; numbers become the characters they stand for; and a newline becomes an `n`, which is
what is left of its escape. Two texts may have one form, but what is the same stays the same. It takes one pass.
"""

from __future__ import annotations

import re
from bisect import bisect_right

_ESCAPE = re.compile(
    r"""(?P<octal>(?:\\++[0-3][0-7]{2})+)                                        # bytes of UTF-8
      | \\++(?:[xX](?P<two>[0-9a-fA-F]{2})
             |[uU](?P<high>[dD][89abAB][0-9a-fA-F]{2})\\++[uU](?P<low>[dD][c-fC-F][0-9a-fA-F]{2})
             |[uU](?P<four>[0-9a-fA-F]{4})                                     # of eight digits the first ones
             |)
      | [\a-\r\U00010000-\U0010ffff]""",
    re.VERBOSE,
)
_LETTERS = dict(zip(b"\a\b\t\n\v\f\r\\", (*"abtnvfr", ""), strict=True))
_BEYOND = re.compile("[\U00010000-\U0010ffff]")


def folded(text: str) -> str:
    """`text` in lower case, each character at its place: unlike `lower`, it neither grows nor looks at neighbours."""
    lower = text.lower()
    if text.isascii():
        return lower
    if len(lower) != len(text):
        lower = text.replace("\u0130", "i").lower()  # the one letter that has two in lower case
    return lower.replace("\u03c2", "\u03c3")  # sigma at the end of a word


class Unescaped:
    """`text` is the form of `original`, folded."""

    def __init__(self, original: str) -> None:
        parts: list[str] = []
        self._starts: list[int] = []  # of each part, in the form
        self._origins: list[tuple[int, int]] = []  # of each part, in the original: from and to
        size = at = 0

        def add(part: str, start: int, end: int) -> None:
            nonlocal size
            if part:
                parts.append(part)
                self._starts.append(size)
                self._origins.append((start, end))
                size += len(part)

        for escape in _ESCAPE.finditer(original):
            add(original[at : escape.start()], at, escape.start())
            add(_character(escape), *escape.span())
            at = escape.end()
        add(original[at:], at, len(original))
        self.text = folded("".join(parts))

    def origin(self, place: tuple[int, int]) -> tuple[int, int]:
        """Where the original has what the form has at `place`: from where and to where."""
        return self._of(place[0])[0], self._of(place[1] - 1)[1]

    def _of(self, index: int) -> tuple[int, int]:
        part = bisect_right(self._starts, index) - 1
        start, end = self._origins[part]
        size = (self._starts[part + 1] if part + 1 < len(self._starts) else len(self.text)) - self._starts[part]
        if size != end - start:  # an escape, which is found as a whole
            return start, end
        start += index - self._starts[part]
        return start, start + 1


def _character(escape: re.Match[str]) -> str:
    octal, two, high, low, four = escape.groups()
    if octal:
        # A byte that is not UTF-8 was none of an escape; it is the same in the value.
        found = bytes(int(digits, 8) for digits in octal.split("\\") if digits).decode(errors="surrogateescape")
    elif high:
        found = chr(0x10000 + (int(high, 16) - 0xD800) * 0x400 + int(low, 16) - 0xDC00)
    elif two or four:
        found = chr(int(two or four, 16))
    else:
        found = escape[0] if escape[0][0] != "\\" else ""
    # As its escape of eight digits, of which the first four count as a character.
    found = _BEYOND.sub(lambda beyond: f"{chr(ord(beyond[0]) >> 16)}{ord(beyond[0]) & 0xFFFF:04x}", found)
    return found.translate(_LETTERS)
