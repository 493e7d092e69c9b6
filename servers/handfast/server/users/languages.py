"""Whether a text is a language tag, by langcodes."""

from __future__ import annotations

from typing import Any

import langcodes


class _KeepsNothing(dict[Any, Any]):
    def __setitem__(self, key: Any, value: Any) -> None:
        pass


# langcodes keeps each tag that it was ever asked about, refused ones too, and has no switch for that. Callers must not
# be able to fill the memory, and a locale is personal data.
langcodes.Language._PARSE_CACHE = langcodes.Language._INSTANCES = _KeepsNothing()


def is_language_tag(tag: str) -> bool:
    """Whether `tag` has the form of BCP 47 (RFC 5646) and its subtags a meaning, deprecated ones included."""
    return "_" not in tag and langcodes.tag_is_valid(tag)  # langcodes also takes `pt_BR`, which BCP 47 does not
