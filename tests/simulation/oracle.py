"""What must hold, judged from outside: it sees every commit of every database, and what every caller was told.

The oracle keeps the state that everybody should see, as a specification without pending changes: a plain write changes
it when its local transaction commits, a transaction when COMMITTED is inserted, all that it names at once, and nothing
else ever does. Every write leaves a tag of its own in what it writes, so a write that is lost, or applied twice, shows.

    a user           (email, tags), or None where there is none
    preferences      tags; empty where there are none
    of the bank      an Account or an Entry, or None where there is none
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from handfast.preferences.v1.preferences_pb2 import (
    BatchGetPreferencesRequest,
    GetPreferencesRequest,
    UpdatePreferencesRequest,
)
from handfast.server.preferences.resources import PreferencesResources
from handfast.server.transactions.participant.resource_type import ResourceType
from handfast.server.users.emails import email_claim
from handfast.server.users.resources import UserResources
from handfast.users.v1.users_pb2 import (
    BatchGetUsersRequest,
    CreateUserRequest,
    DeleteUserRequest,
    GetUserRequest,
    UpdateUserRequest,
    User,
)
from tests.simulation import bank
from tests.simulation.engine import Changes, Engine, Row

if TYPE_CHECKING:
    from tests.simulation.world import World

Seen = Any
"""A resource as in the text above."""
Place = tuple[str, str]
"""The kind and the key of a resource."""
Operation = tuple[str, str, int]
"""A transaction, a participant and the number."""
KINDS: dict[str, tuple[ResourceType[Any], ...]] = {
    "users": (UserResources(),),
    "preferences": (PreferencesResources(),),
    "bank": (bank.ACCOUNTS, bank.ENTRIES),
}
"""What each participant owns."""
RESOURCES = {type_.kind: type_ for types in KINDS.values() for type_ in types}
OWNERS = {type_.kind: participant for participant, types in KINDS.items() for type_ in types}
CLAIMS: Mapping[str, Callable[[Seen], str]] = {
    "users": lambda user: email_claim(user[0]),
    "accounts": lambda account: bank.alias_claim(account.alias),
}
"""The unique value of a resource, of the kinds that have one."""
NOTHING: Mapping[str, Seen] = {**dict.fromkeys(RESOURCES), "preferences": frozenset()}


class Account(NamedTuple):
    balance: int
    alias: str
    entry_count: int


class Entry(NamedTuple):
    tag: str
    balance: int
    looked_at: int


def seen(kind: str, message: Any) -> Seen:
    if message is None:
        return NOTHING[kind]
    match kind:
        case "users":
            return message.email, frozenset(message.labels)
        case "preferences":
            return frozenset(message.values)
        case "accounts":
            return Account(message.balance, message.alias, message.entry_count)
        case _:
            return Entry(message.tag, message.balance, message.looked_at)


View = Callable[[Place], Seen]
"""What is there."""
Effects = Mapping[Place, Seen]
"""What a write makes of resources."""


@dataclass(frozen=True)
class Write:
    """What a request does: its effects upon what is there, or None where it has to be refused."""

    place: Place
    """One of those that it changes."""
    tag: str
    effects: Callable[[View], Effects | None]

    def __str__(self) -> str:
        return f"{self.tag or 'a deletion'} of {'/'.join(self.place)}"


@dataclass(frozen=True)
class Shown:
    """A resource as it was shown."""

    place: Place
    value: Seen


@dataclass(frozen=True)
class Answered:
    """A call within a transaction: what it wrote, if it did, and then what it has shown."""

    write: Write | None
    shown: list[Shown]


def write_of(request: Any) -> Write | None:
    """What a call does; None where it is no write."""
    match request:
        case CreateUserRequest():
            user = request.user
            (tag,) = user.labels
            return _change(("users", user.user_id), tag, lambda _: (user.email, frozenset({tag})), must_exist=False)
        case UpdateUserRequest():
            user = request.user
            (tag,) = user.labels
            paths = request.update_mask.paths
            email = user.email if "email" in paths else ""
            return _change(
                ("users", user.user_id),
                tag,
                lambda old: (email or old[0], (frozenset() if "labels" in paths else old[1]) | {tag}),
                must_exist=True,
            )
        case DeleteUserRequest():
            return _change(("users", request.user_id), "", lambda _: None, must_exist=True)
        case UpdatePreferencesRequest():
            tags = frozenset(request.preferences.values)
            place = ("preferences", request.preferences.user_id)
            tag = next(iter(tags), "")
            if list(request.update_mask.paths) == ["values"]:
                return _change(place, tag, lambda _: tags)
            return _change(place, tag, lambda old: old | tags)
        case bank.MoveRequest():
            return Write(("accounts", request.giver), request.tag, lambda view: _moved(request, view))
        case _:
            return None


def shown_by(request: Any, reply: Any) -> list[Shown]:
    """What the reply to a call shows of the resources that it read or wrote; None where there was nothing."""
    match request:
        case GetUserRequest() if reply is None:
            return [Shown(("users", request.user_id), None)]
        case GetUserRequest() | CreateUserRequest() | UpdateUserRequest():
            return [Shown(("users", reply.user.user_id), seen("users", reply.user))]
        case DeleteUserRequest():
            return [Shown(("users", request.user_id), None)]
        case BatchGetUsersRequest():
            return _all_shown("users", request.user_ids, {user.user_id: user for user in reply.users})
        case GetPreferencesRequest() | UpdatePreferencesRequest():
            preferences = reply.preferences
            return [Shown(("preferences", preferences.user_id), seen("preferences", preferences))]
        case BatchGetPreferencesRequest():
            return [Shown(("preferences", each.user_id), seen("preferences", each)) for each in reply.preferences]
        case bank.MoveRequest():
            keys = [request.giver, request.taker]
            shown = _all_shown("accounts", keys, dict(zip(keys, (reply.giver, reply.taker), strict=True)))
            entries = [bank.entry_key(request.giver, reply.giver.entry_count)]
            if request.drops_entry_before:
                entries.append(bank.entry_key(request.giver, reply.giver.entry_count - 1))
            return shown + _all_shown("entries", entries, {reply.entry.entry_id: reply.entry})
        case bank.GetStatementRequest():
            accounts = {account.account_id: account for account in reply.accounts}
            entries = [key for id_, each in accounts.items() for key in bank.stated_entries(id_, each.entry_count)]
            return [
                *_all_shown("accounts", request.account_ids, accounts),
                *_all_shown("entries", entries, {entry.entry_id: entry for entry in reply.entries}),
            ]
    raise AssertionError(f"nobody calls by {type(request).__name__}")


def _all_shown(kind: str, keys: Iterable[str], found: Mapping[str, Any]) -> list[Shown]:
    return [Shown((kind, key), seen(kind, found.get(key))) for key in keys]


def _change(place: Place, tag: str, change: Callable[[Seen], Seen], must_exist: bool | None = None) -> Write:
    """Of one resource. `must_exist` says whether there must be one before; None where it does not matter."""

    def effects(view: View) -> Effects | None:
        before = view(place)
        fits = must_exist is None or must_exist == (before is not None)
        return {place: change(before)} if fits else None

    return Write(place, tag, effects)


def _moved(request: Any, view: View) -> Effects | None:
    def account(key: str) -> Account:
        found: Account | None = view(("accounts", key))
        return found or Account(bank.OPENING, alias=key, entry_count=0)

    giver, taker, amount = account(request.giver), account(request.taker), request.amount
    if giver.balance < amount:
        return None
    aliases = (giver.alias, taker.alias)
    alias_of_giver, alias_of_taker = reversed(aliases) if request.swaps_aliases else aliases
    left, number = giver.balance - amount, giver.entry_count + 1
    looked_at = account(request.looks_at).balance if request.looks_at else 0
    effects: dict[Place, Seen] = {
        ("accounts", request.giver): Account(left, alias_of_giver, number),
        ("accounts", request.taker): Account(taker.balance + amount, alias_of_taker, taker.entry_count),
        ("entries", bank.entry_key(request.giver, number)): Entry(request.tag, left, looked_at),
    }
    if request.drops_entry_before:
        effects["entries", bank.entry_key(request.giver, number - 1)] = None
    return effects


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
        self.whole: dict[str, list[Answered]] = {}
        """The calls of transactions, in their order, of those that asked to be committed so."""
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
        touched = [place for place in changes if place[0] in RESOURCES]
        write = write_of(request) if request is not None else None
        what = f"a commit on {engine.name}"
        if touched and write is not None and not any(table == "branches" for table, _ in changes):
            self.step += 1
            for place in self._apply([write], "a plain write"):
                self._compare(place, what)
        for place in touched:
            self._compare(place, what)
        if engine.name == "bank":
            self._check_sum(what)

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
                        own.update(write.effects(self._view(own)) or {})
                elif transaction_id in self.overcounted:
                    break  # what is there is applied
                else:
                    self.fail(f"{transaction_id} commits operation {number} of {participant}, which nobody sent")
                    return
        self._replay(transaction_id)
        self.step += 1
        what = f"the decision of {transaction_id}"
        changed = self._apply(writes, what)
        for place in changed:
            self._compare(place, what)
        if "bank" in committed:
            self._check_sum(what)
        users, preferences = ({key for kind, key in changed if kind == each} for each in ("users", "preferences"))
        for key in users & preferences:
            self.joint.setdefault(key, []).append(self.step)

    def _check_looked(self, operation: Operation, own: Effects) -> None:
        if operation in self._looked:
            place, value = self._looked[operation]
            now = self._view(own)(place)
            if value != now:
                self.fail(
                    f"operation {operation[2]} of {operation[0]} has looked at {'/'.join(place)}, {_words(value)}, "
                    f"but as that is decided, it is {_words(now)}"
                )

    def _view(self, own: Effects) -> View:
        """What is there, and upon it the changes that a transaction has made itself."""
        return lambda place: own.get(place, self.now.get(place, NOTHING[place[0]]))

    def _replay(self, transaction_id: str) -> None:
        """All that a transaction was shown must be what it would have been shown, had it run in the moment of its
        decision: then the order of the decisions is the order in which all transactions could have run by themselves.
        """
        own: dict[Place, Seen] = {}
        view = self._view(own)
        for call in self.whole.get(transaction_id, ()):
            if call.write is not None:
                effects = call.write.effects(view)
                if effects is None:
                    self.fail(f"{transaction_id} commits {call.write}, which is {_words(view(call.write.place))}")
                    return
                own.update(effects)
            for shown in call.shown:
                if shown.value != view(shown.place):
                    self.fail(
                        f"{transaction_id} is committed and was shown {'/'.join(shown.place)} as {_words(shown.value)},"
                        f" but as it is decided, that is {_words(view(shown.place))}"
                    )

    def _apply(self, writes: list[Write], what: str) -> list[Place]:
        """Returns what they change."""
        changed: dict[Place, None] = {}
        for write in writes:
            effects = write.effects(self._view({}))
            if effects is None:
                self.fail(f"{what} applies {write}, which is {_words(self._view({})(write.place))}")
                break
            if write.tag:
                if write.tag in self.applied:
                    self.fail(f"{what} applies {write.tag} a second time")
                if write.tag in self._refused:
                    self.fail(f"{what} applies {write.tag}, but {self._refused[write.tag]}")
                self.applied.add(write.tag)
            self.now.update(effects)
            changed.update(dict.fromkeys(effects))
        for place in changed:
            self.history.setdefault(place, [(0, NOTHING[place[0]])]).append((self.step, self.now[place]))
            self._world.log("", f"now {'/'.join(place)} is {_words(self.now[place])}")
        emails = [user[0] for (kind, _), user in self.now.items() if kind == "users" and user]
        if len(set(emails)) < len(emails):
            self.fail(f"after {what}, two users have the same email")
        return list(changed)

    def _check_sum(self, what: str) -> None:
        """What is moved comes from somewhere, and is nowhere else any more."""
        accounts = [self.actual(("accounts", key)) for key in self._world.engines["bank"].tables["accounts"]]
        moved = sum(account.balance - bank.OPENING for account in accounts if account)
        if moved:
            self.fail(f"after {what}, there are {moved} more in the accounts of the database than there were")

    def _compare(self, place: Place, what: str) -> None:
        actual, expected = self.actual(place), self.now.get(place, NOTHING[place[0]])
        if actual != expected:
            self.fail(
                f"after {what}, {'/'.join(place)} is {_words(actual)} in the database, and should be {_words(expected)}"
            )

    def actual(self, place: Place) -> Seen:
        """What the database has, pending changes that are committed included."""
        kind, key = place
        participant, resources = OWNERS[kind], RESOURCES[kind]
        engine = self._world.engines[participant]
        row: Any = engine.tables[kind].get(key)
        if row is None:
            return NOTHING[kind]
        pending = row["pending_transaction_id"]
        named = (self.decisions.get(pending) or {}).get(participant, 0)
        images = {
            operation["number"]: operation["image"]
            for operation in engine.tables["operations"].values()
            if (operation["transaction_id"], operation["kind"], operation["resource"]) == (pending, kind, key)
            and not operation["is_lock"]
            and operation["number"] <= named
        }
        if images:
            image = images[max(images)]
            return seen(kind, None if image is None else resources.message_type.FromString(image))
        return seen(kind, resources.to_message(Row(row)) if row["present"] else None)

    def check_claims(self) -> None:
        """Once nothing is pending: every email and every alias has its holder, and no other value has one."""
        for kind, claim in CLAIMS.items():
            if OWNERS[kind] in self._world.engines:
                claims = self._world.engines[OWNERS[kind]].tables["claims"]
                held = {value: row["holder"] for value, row in claims.items()}
                there = {key: value for (of_kind, key), value in self.now.items() if of_kind == kind and value}
                if held != {claim(value): key for key, value in there.items()}:
                    self.fail(f"claims are {held}, {kind} are {there}")

    def legible(self, engine: Engine, table: str, columns: dict[str, Any] | None) -> dict[str, Any] | None:
        """A row as it should be printed."""
        if table == "operations" and columns is not None and columns["image"] is not None:
            kind = columns["kind"]
            image = RESOURCES[kind].message_type.FromString(columns["image"])
            return {**columns, "image": _words(seen(kind, image))}
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
        histories = {key: history for (kind, key), history in self.history.items() if kind == "users"}
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
    match value:
        case None:
            return "nothing"
        case frozenset():
            return f"{{{', '.join(sorted(value))}}}"
        case (str() as email, frozenset() as tags):
            return f"{email} {_words(tags)}"
    return str(value)
