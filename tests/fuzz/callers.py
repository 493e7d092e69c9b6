"""Who calls, what each may do by the contracts, and odd ways to say who one is."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from hypothesis import strategies as st

from handfast.chassis.v1 import options_pb2
from handfast.client.transaction_metadata import STAGE_KEYS, TRANSACTION_ID
from handfast.server.chassis.pipeline.layer import DEFAULT_MESSAGE_LIMIT, METADATA_LIMIT, metadata_size
from handfast.server.chassis.security.callers import FORWARD
from handfast.server.chassis.security.identity import Identity
from handfast.server.chassis.security.permission import SELF, Permission
from handfast.server.process.settings import ServerSettings
from tests.fuzz.calls import Call, Metadata, Outcome
from tests.fuzz.methods import METHODS, SERVICES, Method
from tests.fuzz.plausible import IDS
from tests.fuzz.refusals import reason_of
from tests.security.issuer import BAD, Issuer, bearer

ISSUER = Issuer()
RUN, OPERATE, RESOLVE = "transactions.run", "transactions.operate", "transactions.resolve"
EVERY_SCOPE = {
    scope.replace("{server}", method.server)
    for method in METHODS
    for scope in method.descriptor.GetOptions().Extensions[options_pb2.permission].scopes
}
_SUITE = {*EVERY_SCOPE, RESOLVE, FORWARD}
"""What the suite's servers may do at each other."""
_FOR_WHO_CALLS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
_UNAUTHENTICATED = (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
_SCOPE_MISSING = (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
_TOO_LARGE = (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_TOO_LARGE")
_UNPARSABLE = (grpc.StatusCode.INVALID_ARGUMENT, "UNPARSABLE_REQUEST")
_INVALID_METADATA = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_METADATA")
_NOT_STAGEABLE = (grpc.StatusCode.FAILED_PRECONDITION, "NOT_STAGEABLE")
Refusals = Set[tuple[grpc.StatusCode, str]]
_MORE_METADATA = 1024
"""Bytes that a client may add by itself."""


@dataclass(frozen=True)
class Caller:
    """`known` says whether the server finds out who it is by `metadata`, which is all that it sends for that."""

    name: str
    subject: str
    scopes: frozenset[str]
    metadata: Metadata = field(repr=False)
    known: bool = True

    @classmethod
    def with_token(cls, subject: str, scopes: Iterable[str]) -> Caller:
        scopes = frozenset(scopes)
        return cls(f"{subject} with {sorted(scopes)}", subject, scopes, bearer(token(subject, scopes)))

    @property
    def digest(self) -> str:
        """By which the servers know it."""
        return Identity.of_token(ISSUER.url, self.subject, ()).digest


@functools.cache
def token(subject: str, scopes: frozenset[str]) -> str:
    return ISSUER.token(subject, sorted(scopes))


ADMIN = Caller.with_token("admin", EVERY_SCOPE)
USER = Caller.with_token(IDS[0], {SELF, RUN})
STRANGER = Caller.with_token("stranger", ())


def settings(folder: Path) -> dict[str, str]:
    """Variables by which a suite enforces permissions, and its servers may call each other."""
    peer_token = folder / "suite.token"
    peer_token.touch(mode=0o600)
    peer_token.write_text(ISSUER.token("suite", sorted(_SUITE)))
    chosen = ISSUER.settings(folder) | {"peer_token": str(peer_token)}
    return {ServerSettings.variable(server, name): chosen[name] for server in SERVICES for name in chosen}


def permitted(method: Method) -> st.SearchStrategy[Caller]:
    """Callers who may call the method, at least for what is their own: mostly one who may do everything."""
    permission = _permission(method)
    if permission is None:
        return st.sampled_from((ADMIN, USER, STRANGER, *map(_odd, _MEANT_WELL), *_UNKNOWN[:3]))
    others = [Caller.with_token("other", permission.scopes | {RUN})]
    if permission.own:
        others += [USER, USER]
    odd = [_odd(authorization) for authorization in _MEANT_WELL]
    return st.sampled_from((True, True, False)).flatmap(lambda all_: st.sampled_from([ADMIN] if all_ else others + odd))


def intruders(method: Method) -> st.SearchStrategy[Caller]:
    """Callers who may not: without a token, with a bad one, or with one that has not all the scopes."""
    permission = _permission(method)
    assert permission is not None
    scopes = sorted(permission.scopes)
    known = [Caller.with_token(IDS[0], EVERY_SCOPE - {scope}) for scope in scopes] + [STRANGER]
    if not permission.own:
        known += [USER, Caller.with_token("stranger", EVERY_SCOPE - permission.scopes | {SELF})]
    return st.sampled_from(known) | unknown


def _permission(method: Method) -> Permission | None:
    """None for what everybody may call."""
    return (
        None if method.service.startswith("grpc.") else Permission.of(method.descriptor, method.server, {method.server})
    )


_GOOD = token(ADMIN.subject, ADMIN.scopes)
_MEANT_WELL = (f"bearer {_GOOD}", f"BEARER {_GOOD}", f"Bearer    {_GOOD}")
_NOT_MEANT_WELL = (
    *("", " ", "Bearer", "Bearer ", "bearer:", "Bearer null", "Bearer ..", "Bearer a.b.c", "a" * 1000),
    *(_GOOD, f"Basic {_GOOD}", f"Token {_GOOD}", f"Bearer{_GOOD}", f"Bearer,{_GOOD}", f"Bearer Bearer {_GOOD}"),
    *(f"Bearer {_GOOD} {_GOOD}", f"Bearer {_GOOD},{_GOOD}", f"Bearer {_GOOD}==", f"Bearer {_GOOD}!!!!"),
    *(f"Bearer {_GOOD.upper()}", f"Bearer {_GOOD[::-1]}", f"Bearer {_GOOD[:-30]}", "Bearer " + "x" * 20_000),
    f'Bearer token="{_GOOD}"',
)


def _odd(authorization: str) -> Caller:
    return Caller("admin, oddly", ADMIN.subject, ADMIN.scopes, (("authorization", authorization),))


def _nobody(name: str, *entries: tuple[str, str | bytes]) -> Caller:
    return Caller(name, "", frozenset(), entries, known=False)


_UNKNOWN = (
    _nobody("nobody"),
    *(_nobody("odd", ("authorization", odd)) for odd in _NOT_MEANT_WELL),
    _nobody("two tokens", *ADMIN.metadata, *ADMIN.metadata),
    _nobody("two callers", *ADMIN.metadata, *USER.metadata),
    _nobody("a token and nothing", *ADMIN.metadata, ("authorization", "")),
    _nobody("binary", ("authorization-bin", f"Bearer {_GOOD}".encode())),
    _nobody("another key", ("x-authorization", f"Bearer {_GOOD}"), ("cookie", f"authorization=Bearer {_GOOD}")),
    # Of one whose key is not there, the server asks for the keys first, and the caller is to try again.
    *(_nobody(f"token: {kind}", *bearer(bad(ISSUER))) for kind, (why, bad) in BAD.items() if why != "unknown_key"),
)
_visible = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=60)
unknown: st.SearchStrategy[Caller] = st.sampled_from(_UNKNOWN) | _visible.map(
    lambda text: _nobody("odd", ("authorization", f"Bearer {text}"))
)
"""Callers of whom the server does not know who they are."""
anybody = st.sampled_from((ADMIN, ADMIN, USER, STRANGER)) | unknown


def refused_with(caller: Caller, method: Method | None, call: Call, request: Message | None) -> Refusals:
    """The codes, with reasons, of which a call has to be refused with one for who makes it; none where it may be made.
    `method` is None for one that is not there, `request` where the bytes mean nothing."""
    permission = None if method is None else _permission(method)
    if method is not None and permission is None:
        return set()
    # Metadata is looked at first, since who calls is in it.
    metadata = {_TOO_LARGE} if method and metadata_size(call.metadata) > METADATA_LIMIT - _MORE_METADATA else set()
    if not caller.known:
        return {_UNAUTHENTICATED} | metadata
    if permission is None:
        return set()
    if not permission.lacking(request, caller.scopes, caller.subject) and (
        request or permission.scopes <= caller.scopes
    ):
        return set()
    if not permission.scopes <= caller.scopes and not (permission.own and SELF in caller.scopes):
        return {_SCOPE_MISSING} | metadata
    # Whose the resource is, the request says: what is wrong before that is looked for is told first.
    if not STAGE_KEYS.isdisjoint(key for key, _ in call.metadata):
        metadata |= {_NOT_STAGEABLE, _INVALID_METADATA}
    if call.requests and len(call.requests[0]) > DEFAULT_MESSAGE_LIMIT:
        return {_TOO_LARGE} | metadata
    if request is None:
        return {_UNPARSABLE} | metadata
    return {_SCOPE_MISSING} | metadata


def check_owner(caller: Caller, owners: Mapping[str, str], method: Method, call: Call, request: Any) -> None:
    """For a call that was accepted: the transactions that it is about are the caller's own, unless it may do so with
    those of others. `owners` are their subjects by id. Raises AssertionError."""
    if _permission(method) is None or method.service.endswith(".ParticipantService"):  # that is for the coordinator
        return
    by_metadata = [str(value) for key, value in call.metadata if key == TRANSACTION_ID]
    by_request = [getattr(request, "transaction_id", ""), *getattr(request, "transaction_ids", ())]
    not_only_owners = method.name != "CommitTransaction" and caller.scopes & {OPERATE, RESOLVE}
    for id_ in (*by_metadata, *(() if not_only_owners else by_request)):
        assert owners.get(id_, caller.subject) == caller.subject, f"{caller} got at {id_} of {owners[id_]}"


def check_refused(caller: Caller, refused: Refusals, outcome: Outcome) -> None:
    """For a call that was refused, for who makes it or for another reason. Raises AssertionError where it was not
    refused with one of the codes that it has to be `refused` with, or for who makes it though it need not be."""
    reason = reason_of(outcome)
    if refused:
        assert (outcome.code, reason) in refused, f"{caller.name}: {outcome.code} {reason} and not {refused}"
        assert not outcome.replies
    elif outcome.code in _FOR_WHO_CALLS:
        assert reason == "NOT_OWNER", f"{caller.name}: {reason}"
