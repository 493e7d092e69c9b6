"""What must hold, judged from outside: it sees every commit of every database, and what every caller was told.

The oracle keeps the state that everybody should see, as a specification without pending changes: a plain write changes
it when its local transaction commits, a transaction when COMMITTED is inserted, all that it names at once, and nothing
else ever does. Every write leaves a tag of its own in what it writes, so a write that is lost, or applied twice, shows.

    a user           (email, tags), or None where there is none
    preferences      tags; empty where there are none
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from handfast.preferences.v1.preferences_pb2 import UpdatePreferencesRequest
from handfast.server.preferences.resources import PreferencesResources
from handfast.server.transactions.participant.resource_type import ResourceType
from handfast.server.users.emails import email_claim
from handfast.server.users.resources import UserResources
from handfast.users.v1.users_pb2 import CreateUserRequest, DeleteUserRequest, UpdateUserRequest, User
from tests.simulation.engine import Changes, Engine, Row

if TYPE_CHECKING:
    from tests.simulation.world import World

Seen = Any
"""A user or preferences as in the text above."""
Place = tuple[str, str]
"""A participant and the key of a resource."""
Operation = tuple[str, str, int]
"""A transaction, a participant and the number."""
NOTHING: dict[str, Seen] = {"users": None, "preferences": frozenset()}
RESOURCES: dict[str, ResourceType[Any]] = {"users": UserResources(), "preferences": PreferencesResources()}


def seen(participant: str, message: Any) -> Seen:
    if message is None:
        return NOTHING[participant]
    if participant == "users":
        return message.email, frozenset(message.labels)
    return frozenset(message.values)


@dataclass(frozen=True)
class Write:
    """What a request does to one resource."""

    place: Place
    tag: str
    apply: Callable[[Seen], Seen]
    must_exist: bool | None = None
    """Whether there must be one before; None where it does not matter."""

    def fits(self, before: Seen) -> bool:
        return self.must_exist is None or self.must_exist == (before is not None)


@dataclass(frozen=True)
class Shown:
    """What a call within a transaction has shown of a resource: as it is, or as `write` leaves it."""

    place: Place
    value: Seen
    write: Write | None = None


def write_of(request: Any) -> Write | None:
    """What a call of users or preferences does; None where it is no write."""
    match request:
        case CreateUserRequest():
            user = request.user
            (tag,) = user.labels
            return Write(("users", user.user_id), tag, lambda _: (user.email, frozenset({tag})), must_exist=False)
        case UpdateUserRequest():
            user = request.user
            (tag,) = user.labels
            paths = request.update_mask.paths
            email = user.email if "email" in paths else ""
            return Write(
                ("users", user.user_id),
                tag,
                lambda old: (email or old[0], (frozenset() if "labels" in paths else old[1]) | {tag}),
                must_exist=True,
            )
        case DeleteUserRequest():
            return Write(("users", request.user_id), "", lambda _: None, must_exist=True)
        case UpdatePreferencesRequest():
            tags = frozenset(request.preferences.values)
            place = ("preferences", request.preferences.user_id)
            tag = next(iter(tags), "")
            if list(request.update_mask.paths) == ["values"]:
                return Write(place, tag, lambda _: tags)
            return Write(place, tag, lambda old: old | tags)
        case _:
            return None


class Oracle:
    def __init__(self, world: World) -> None:
        self._world = world
        self.step = 0
        self.now: dict[Place, Seen] = {}
        self.history: dict[Place, list[tuple[int, Seen]]] = {}
        self.joint: dict[str, list[int]] = {}
        """When transactions were decided that changed both sides of an account."""
        self.decisions: dict[str, dict[str, int] | None] = {}
        """What each transaction commits; None where it was aborted."""
        self.applied: set[str] = set()
        self.whole: dict[str, list[Shown]] = {}
        """What transactions were shown, in the order of their calls, of those that asked to be committed so."""
        self.looking: dict[Operation, tuple[Place, Seen]] = {}
        """What staged calls look at besides, of another resource; once more whenever their local transaction is."""
        self._looked: dict[Operation, tuple[Place, Seen]] = {}
        self._sent: dict[tuple[Operation, bytes], Write | None] = {}
        self._staged: dict[Operation, Write | None] = {}
        """What stands under each number: a write, or None for locks. A caller that got no answer may have sent
        several.
        """
        self.overcounted: set[str] = set()
        """Transactions that somebody tried to commit with operations that nobody ever sent."""
        self._refused: dict[str, str] = {}
        self._doomed: dict[str, str] = {}

    # What happens

    def sent(self, transaction_id: str, participant: str, number: int, digest: bytes, request: Any) -> None:
        """Somebody sends a staged call."""
        write = write_of(request)
        operation = (transaction_id, participant, number)
        self._sent[operation, digest] = write
        self._staged.setdefault(operation, write)

    def changed(self, engine: Engine, changes: Changes, request: Any) -> None:
        """A local transaction has committed; `request` is the call that did it, if it was a plain one."""
        if engine.name == "transactions":
            for (table, key), columns in changes.items():
                if table == "decisions" and columns is not None:
                    self._decided(key, columns)
            return
        for (table, key), columns in changes.items():
            if table == "operations" and columns is not None and key[2] == 1:
                operation = (key[0], engine.name, key[1])
                self._staged[operation] = self._sent[operation, columns["fingerprint"]]
                if operation in self.looking:
                    self._looked[operation] = self.looking[operation]
        touched = [key for table, key in changes if table == engine.name]
        write = write_of(request) if request is not None else None
        if touched and write is not None and not any(table == "branches" for table, _ in changes):
            self.step += 1
            self._apply([write], "a plain write")
        for key in touched:
            self._compare((engine.name, key), f"a commit on {engine.name}")

    def _decided(self, transaction_id: str, columns: dict[str, Any]) -> None:
        committed = dict(columns["branches"]) if columns["outcome"] == "COMMITTED" else None
        if transaction_id in self.decisions:
            if (first := self.decisions[transaction_id]) != committed:
                self.fail(f"the decision of {transaction_id} was {_decided(first)}, and is {_decided(committed)} now")
            return
        self.decisions[transaction_id] = committed
        if committed is None:
            return
        if transaction_id in self._doomed:
            self.fail(f"{transaction_id} is committed, but {self._doomed[transaction_id]}")
        writes: list[Write] = []
        own: dict[Place, Seen] = {}
        for participant, count in committed.items():
            for number in range(1, count + 1):
                operation = (transaction_id, participant, number)
                if operation in self._staged:
                    self._check_looked(operation, own)
                    write = self._staged[operation]
                    if write is not None:
                        writes.append(write)
                        before = self._as_seen_by(own, write.place)
                        own[write.place] = write.apply(before) if write.fits(before) else before
                elif transaction_id in self.overcounted:
                    break  # what is there is applied
                else:
                    self.fail(f"{transaction_id} commits operation {number} of {participant}, which nobody sent")
                    return
        self._replay(transaction_id)
        self.step += 1
        what = f"the decision of {transaction_id}"
        self._apply(writes, what)
        for write in writes:
            self._compare(write.place, what)
        users, preferences = ({w.place[1] for w in writes if w.place[0] == each} for each in ("users", "preferences"))
        for key in users & preferences:
            self.joint.setdefault(key, []).append(self.step)

    def _check_looked(self, operation: Operation, own: dict[Place, Seen]) -> None:
        if operation in self._looked:
            place, value = self._looked[operation]
            if value != self._as_seen_by(own, place):
                self.fail(
                    f"operation {operation[2]} of {operation[0]} has looked at {'/'.join(place)}, {_words(value)}, "
                    f"but as that is decided, it is {_words(self._as_seen_by(own, place))}"
                )

    def _as_seen_by(self, own: dict[Place, Seen], place: Place) -> Seen:
        """With the changes that a transaction has made itself."""
        return own.get(place, self.now.get(place, NOTHING[place[0]]))

    def _replay(self, transaction_id: str) -> None:
        """All that a transaction was shown must be what it would have been shown, had it run in the moment of its
        decision: then the order of the decisions is the order in which all transactions could have run by themselves.
        """
        own: dict[Place, Seen] = {}
        for shown in self.whole.get(transaction_id, ()):
            place = shown.place
            value = self._as_seen_by(own, place)
            if shown.write is not None:
                if not shown.write.fits(value):
                    what = shown.write.tag or "a deletion"
                    self.fail(f"{transaction_id} commits {what} of {'/'.join(place)}, which is {_words(value)}")
                    return
                value = own[place] = shown.write.apply(value)
            if shown.value != value:
                self.fail(
                    f"{transaction_id} is committed and was shown {'/'.join(place)} as {_words(shown.value)}, "
                    f"but as it is decided, that is {_words(value)}"
                )

    def _apply(self, writes: list[Write], what: str) -> None:
        for write in writes:
            before = self.now.get(write.place, NOTHING[write.place[0]])
            if not write.fits(before):
                self.fail(f"{what} applies {write.tag or 'a deletion'} to {write.place}, which is {before}")
                return
            if write.tag:
                if write.tag in self.applied:
                    self.fail(f"{what} applies {write.tag} a second time")
                if write.tag in self._refused:
                    self.fail(f"{what} applies {write.tag}, but {self._refused[write.tag]}")
                self.applied.add(write.tag)
            self.now[write.place] = write.apply(before)
        for place in dict.fromkeys(write.place for write in writes):
            self.history.setdefault(place, [(0, NOTHING[place[0]])]).append((self.step, self.now[place]))
            self._world.log("", f"now {'/'.join(place)} is {_words(self.now[place])}")
        emails = [user[0] for (participant, _), user in self.now.items() if participant == "users" and user]
        if len(set(emails)) < len(emails):
            self.fail(f"after {what}, two users have the same email")

    def _compare(self, place: Place, what: str) -> None:
        actual, expected = self.actual(place), self.now.get(place, NOTHING[place[0]])
        if actual != expected:
            self.fail(
                f"after {what}, {'/'.join(place)} is {_words(actual)} in the database, and should be {_words(expected)}"
            )

    def actual(self, place: Place) -> Seen:
        """What the database has, pending changes that are committed included."""
        participant, key = place
        engine, resources = self._world.engines[participant], RESOURCES[participant]
        row: Any = engine.tables[participant].get(key)
        if row is None:
            return NOTHING[participant]
        pending = row["pending_transaction_id"]
        named = (self.decisions.get(pending) or {}).get(participant, 0)
        images = {
            operation["number"]: operation["image"]
            for operation in engine.tables["operations"].values()
            if (operation["transaction_id"], operation["resource"], operation["is_lock"]) == (pending, key, False)
            and operation["number"] <= named
        }
        if images:
            image = images[max(images)]
            return seen(participant, None if image is None else resources.message_type.FromString(image))
        return seen(participant, resources.to_message(Row(row)) if row["present"] else None)

    def check_claims(self) -> None:
        """Once nothing is pending: every email has its holder, and no other value has one."""
        held = {value: row["holder"] for value, row in self._world.engines["users"].tables["claims"].items()}
        users = {key: user for (participant, key), user in self.now.items() if participant == "users" and user}
        if held != {email_claim(email): key for key, (email, _) in users.items()}:
            self.fail(f"claims are {held}, users are {users}")

    def legible(self, engine: Engine, table: str, columns: dict[str, Any] | None) -> dict[str, Any] | None:
        """A row as it should be printed."""
        if table == "operations" and columns is not None and columns["image"] is not None:
            message_type = RESOURCES[engine.name].message_type
            return {**columns, "image": _words(seen(engine.name, message_type.FromString(columns["image"])))}
        return columns

    # What callers are told

    def fail(self, text: str) -> None:
        self._world.fail(text)

    def refused(self, tag: str, why: str) -> None:
        """A caller was told that a write did not and will not happen."""
        if tag in self.applied:
            self.fail(f"{why}, but {tag} is applied")
        self._refused[tag] = why

    def doomed(self, transaction_id: str, why: str) -> None:
        """A caller was told that a transaction is not committed and will not be."""
        if self.decisions.get(transaction_id):
            self.fail(f"{why}, but {transaction_id} is committed")
        self._doomed[transaction_id] = why

    def acknowledged(self, tag: str, why: str) -> None:
        if tag not in self.applied:
            self.fail(f"{why}, but {tag} is not applied")

    def staged_as(self, transaction_id: str, participant: str, number: int, request: Any, why: str) -> None:
        sent, stands = write_of(request), self._staged[transaction_id, participant, number]
        if sent is None or stands is None or sent.tag != stands.tag:
            self.fail(f"{why}, but operation {number} of {transaction_id} at {participant} is another")

    def committed_as(self, transaction_id: str, named: dict[str, int], why: str) -> None:
        if self.decisions.get(transaction_id) != named:
            self.fail(f"{why} with {named}, but it is {self._decision_in_words(transaction_id)}")

    def committed(self, transaction_id: str, why: str) -> None:
        if not self.decisions.get(transaction_id):
            self.fail(f"{why}, but it is {self._decision_in_words(transaction_id)}")

    def _decision_in_words(self, transaction_id: str) -> str:
        return _decided(self.decisions[transaction_id]) if transaction_id in self.decisions else "UNDECIDED"

    def versions(self, place: Place, since: int) -> list[tuple[int, Seen]]:
        """The states of a resource from step `since` on, each with the step at which it began."""
        history = self.history.get(place, [(0, NOTHING[place[0]])])
        first = max(index for index, (step, _) in enumerate(history) if step <= since)
        return history[first:]

    def read(self, place: Place, since: int, answer: Seen, how: str) -> None:
        """A read that was called at step `since` answers now."""
        versions = [version for _, version in self.versions(place, since)]
        if answer not in versions:
            self.fail(
                f"{how} of {'/'.join(place)} shows {_words(answer)}, but from the call to the answer it was only "
                + " and ".join(_words(version) for version in versions)
            )

    def shown_together(self, all_shown: list[Shown], since: int, how: str) -> None:
        """A transaction that began at step `since` and only reads ends now: in one moment all was as it was shown."""
        moments = {since}.union(*({step for step, _ in self.versions(shown.place, since)} for shown in all_shown))
        if not any(
            all(_at(self.versions(shown.place, since), max(moment, since)) == shown.value for shown in all_shown)
            for moment in moments
        ):
            seen_by_it = ", ".join(f"{'/'.join(shown.place)} {_words(shown.value)}" for shown in all_shown)
            self.fail(f"{how} was shown {seen_by_it}, but that was never so at the same time")

    def read_account(self, key: str, since: int, user: Seen, preferences: Seen) -> None:
        """Both sides must show the same joint transactions."""
        self.read(("users", key), since, user, "GetAccount")
        self.read(("preferences", key), since, preferences, "GetAccount")
        sides = (
            self._joint_seen(("users", key), since, user),
            self._joint_seen(("preferences", key), since, preferences),
        )
        if not any(
            low <= other_high and other_low <= high for low, high in sides[0] for other_low, other_high in sides[1]
        ):
            self.fail(f"GetAccount of {key} is torn: user {_words(user)}, preferences {_words(preferences)}")

    def _joint_seen(self, place: Place, since: int, answer: Seen) -> list[tuple[int, int]]:
        """How many joint transactions had been decided while this side was as answered, from and to."""
        joint, versions = self.joint.get(place[1], []), self.versions(place, since)
        ends = [step - 1 for step, _ in versions[1:]] + [self.step]
        return [
            (sum(each <= max(start, since) for each in joint), sum(each <= end for each in joint))
            for (start, version), end in zip(versions, ends, strict=True)
            if version == answer
        ]

    def looked_up(self, email: str, since: int, user: User | None) -> None:
        claim = email_claim(email)
        if user is not None:
            self.read(("users", user.user_id), since, seen("users", user), "LookupUser")
            if email_claim(user.email) != claim:
                self.fail(f"LookupUser of {email} shows a user with {user.email}")
            return
        if all(self._had(email, since)):
            self.fail(f"LookupUser of {email} finds nobody, but all the time somebody had it")

    def taken(self, email: str, key: str, since: int, why: str) -> None:
        """A caller was told that another user than this one has the email."""
        if not any(having - {key} for having in self._had(email, since)):
            self.fail(f"{why}, but from the call to the answer nobody else had {email}")

    def _had(self, email: str, since: int) -> list[frozenset[str]]:
        """Which users had the email, for each moment from step `since` on."""
        claim = email_claim(email)
        histories = {key: history for (participant, key), history in self.history.items() if participant == "users"}
        moments = {since, *(step for history in histories.values() for step, _ in history if step > since)}

        def had(history: list[tuple[int, Seen]], moment: int) -> bool:
            user = _at(history, moment)
            return user is not None and email_claim(user[0]) == claim

        return [frozenset(key for key, history in histories.items() if had(history, moment)) for moment in moments]

    def listed(self, after: str, until: str, since: int, users: list[User]) -> None:
        """A page of users with keys greater than `after`, up to `until` (empty: to the end)."""
        by_key = {user.user_id: user for user in users}
        for place in self.history:
            if place[0] == "users" and place[1] > after and (not until or place[1] <= until):
                self.read(place, since, seen("users", by_key.get(place[1])), "ListUsers")


def _decided(committed: dict[str, int] | None) -> str:
    return "ABORTED" if committed is None else f"COMMITTED {committed}"


def _at(history: list[tuple[int, Seen]], moment: int) -> Seen:
    return next(value for step, value in reversed(history) if step <= moment)


def _words(value: Seen) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, tuple):
        return f"{value[0]} {{{', '.join(sorted(value[1]))}}}"
    return f"{{{', '.join(sorted(value))}}}"
