"""Whether two emails are the same, so that only one user may have them."""

from __future__ import annotations

import unicodedata

import idna


def email_claim(email: str) -> str:
    """The unique value of an email, equal for two that are the same.

    Of the local part case does not count, nor how letters with accents are composed. The domain counts as IDNA 2008 has
    it (RFC 5891), after the mapping of UTS 46: `Bücher.example` is `xn--bcher-kva.example`, but `straße.example` is not
    `strasse.example`.
    """
    local, _, domain = email.rpartition("@")
    return f"email:{_folded(local)}@{_ascii_domain(domain)}"


def _folded(text: str) -> str:
    """By Unicode's simple case folding (C and S in CaseFolding.txt), in NFC. Unlike `str.casefold` it makes no letter
    several: `straße` would be `strasse`, which is somebody else.
    """
    if text.isascii():  # the same, in a hundredth of the time
        return text.lower()
    composed = unicodedata.normalize("NFC", text)
    return unicodedata.normalize("NFC", "".join(map(_folded_letter, composed)))


def _folded_letter(letter: str) -> str:
    return next((folded for folded in (letter.casefold(), letter.lower()) if len(folded) == 1), letter)


def _ascii_domain(domain: str) -> str:
    if domain.isascii():
        return domain.lower()
    try:
        return idna.encode(domain, uts46=True).decode()
    except idna.IDNAError:  # stored when it was valid still
        return domain.lower()
