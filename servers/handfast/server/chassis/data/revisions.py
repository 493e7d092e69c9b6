"""What the code knows of its schema: the revisions that lead to it, one after the other.

A revision may say from which one on code may run on the schema that it makes:

    oldest_code = "0003"  # the columns that it adds have defaults

Where it says nothing, code of earlier revisions may not: it neither starts nor stays ready. One that works in steps,
as `steps.py` says, has `in_one_transaction = False`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from operator import attrgetter
from typing import TYPE_CHECKING

from handfast.server.chassis.data.backend import DatabaseError
from handfast.server.chassis.data.schema import Schema

if TYPE_CHECKING:
    from alembic.config import Config


@dataclass(frozen=True, slots=True)
class Revision:
    """`summary` is the first paragraph of its docstring, in one line. Without `downgrade` there is no way back."""

    name: str
    summary: str
    oldest_code: str
    in_one_transaction: bool
    upgrade: Callable[[], None]
    downgrade: Callable[[], None] | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What leads a database from its version to another: the revisions that are made, or taken back where it
    `goes_back`, in that order. The version is None where nothing is set up. `ahead_of` is the newest revision of the
    code, where the version is newer still."""

    version: str | None
    target: str
    revisions: Sequence[Revision]
    goes_back: bool = False
    ahead_of: str | None = None

    def next(self) -> str:
        """The version after the next step: a revision, or where nobody uses the database yet, all those that can be one
        transaction."""
        names = [each.name for each in self.revisions]
        if self.goes_back:
            return [*names, self.target][1]
        if not names:
            return self.target
        together = list(takewhile(attrgetter("in_one_transaction"), self.revisions)) if self.version is None else []
        return names[max(len(together), 1) - 1]

    def works_in_steps(self) -> bool:
        """Whether the next revision is not one transaction."""
        return bool(self.revisions) and not self.revisions[0].in_one_transaction


class Revisions:
    """Those that the code has, the first one first."""

    def __init__(self, all_of_them: Sequence[Revision]) -> None:
        self._all = all_of_them
        self._names = [each.name for each in all_of_them]
        self.head = self._names[-1]

    @classmethod
    def of(cls, schema: Schema) -> Revisions:
        """Raises DatabaseError where there are none, or where they are no single line."""
        from alembic.script import ScriptDirectory
        from alembic.util import CommandError

        try:
            scripts = list(ScriptDirectory.from_config(config_of(schema)).walk_revisions())  # the newest first
        except (CommandError, ImportError) as error:
            raise DatabaseError(f"cannot read the migrations {schema.migrations}: {error}") from error
        found = [
            Revision(
                each.revision,
                " ".join(each.doc.split()),
                getattr(each.module, "oldest_code", each.revision),
                getattr(each.module, "in_one_transaction", True),
                each.module.upgrade,
                getattr(each.module, "downgrade", None),
            )
            for each in reversed(scripts)
        ]
        if [each.down_revision for each in scripts] != [*(each.name for each in reversed(found[:-1])), None]:
            raise DatabaseError(f"the migrations {schema.migrations} are not one after the other")
        return cls(found)

    def __contains__(self, name: str | None) -> bool:
        return name in self._names

    def oldest_code(self, name: str) -> str:
        """The oldest revision whose code may run on the schema that this one makes."""
        return self._all[self._names.index(name)].oldest_code

    def check(self, version: str, oldest_code: str) -> None:
        """Raises DatabaseError unless this code may run on a schema of that version, where that is newer than it."""
        if version not in self and oldest_code not in self:
            raise DatabaseError(
                f"its schema is {version}, which needs code of revision {oldest_code} or later; this is {self.head}"
            )

    def plan(self, version: str | None, to: str | None) -> Plan:
        """What leads from a version to a revision, by default the newest. `version` is None where nothing is set up,
        and may be one that this code does not know. Raises DatabaseError where there is no way."""
        if to is not None and to not in self:
            raise DatabaseError(f"there is no revision {to}; there are {', '.join(self._names)}")
        if version is not None and version not in self:
            if to is not None:
                raise DatabaseError(f"its schema is {version}, from which only code that has this revision leads back")
            return Plan(version, version, [], ahead_of=self.head)
        target = to or self.head
        start = 0 if version is None else self._names.index(version) + 1
        end = self._names.index(target) + 1
        back = self._all[end:start]
        if stays := next((each.name for each in back if each.downgrade is None), None):
            raise DatabaseError(f"revision {stays} cannot be taken back: it has no downgrade()")
        return Plan(version, target, [*self._all[start:end], *reversed(back)], start > end)


def config_of(schema: Schema) -> Config:
    """What Alembic needs to know of the migrations."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", schema.migrations)
    config.set_main_option("path_separator", "os")
    return config
