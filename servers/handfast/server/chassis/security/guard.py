"""Lets a call pass, or refuses it: who calls, and whether that may be.

First comes who calls, then the scopes, and only then is the request read; where it depends on the request who may make
it, that is looked at next, before the handler or an interceptor has it. So whoever may not call a method learns nothing
of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import Message
from prometheus_client import CollectorRegistry, Counter

from handfast.server.chassis.call import Call, current
from handfast.server.chassis.errors import DomainError, NoPermissionDeclared, ScopeMissing, TooManyCalls, Unforeseen
from handfast.server.chassis.logs.tracebacks import described
from handfast.server.chassis.security.callers import caller_of
from handfast.server.chassis.security.permission import EVERYBODY, SELF
from handfast.server.chassis.security.rate import CallRate

if TYPE_CHECKING:
    from handfast.server.chassis.security.authenticator import Authenticator


class Guard:
    """Asks who makes each call, and whether the method's contract lets that caller in. Where it is not `enforced`, all
    calls pass, and those that would be refused are logged and counted. `rate` bounds how many calls each makes."""

    def __init__(
        self, authenticator: Authenticator, rate: CallRate | None, *, enforced: bool, registry: CollectorRegistry
    ) -> None:
        self._authenticator, self._rate, self.enforced = authenticator, rate, enforced
        self._refused = Counter(
            "handfast_calls_refused",
            "Calls of those who may not make them; they were refused where that is enforced.",
            ["grpc_service", "grpc_method", "reason", "enforced"],
            registry=registry,
        )

    def admit(self, call: Call, context: grpc.ServicerContext) -> None:
        """Sets the identity of the call, before anything of its request is read. Raises DomainError where the call is
        refused."""
        call.guard = self
        try:
            self._admit(call, context)
        except DomainError:
            raise
        except Exception as error:
            self._fail(call, error)

    def _admit(self, call: Call, context: grpc.ServicerContext) -> None:
        method, permission = call.method, call.method.permission
        if permission is EVERYBODY:
            return
        try:
            identity = self._authenticator.authenticate(call, context)
        except DomainError as error:
            self.refuse(call, error)
            return
        call.identity, call.caller = identity, caller_of(call, identity)
        if self._rate is not None:
            try:
                self._rate.check(identity)
            except TooManyCalls as error:
                self.refuse(call, error)
        if not method.path:  # there is no such method, which those who are known are told
            return
        if permission is None:
            name = call.path.removeprefix("/")
            self.refuse(call, NoPermissionDeclared(f"The contract of {name} lets nobody call it.", method=name))
        elif not permission.scopes <= identity.scopes:
            if permission.own and SELF in identity.scopes:
                call.is_to_be_checked = True
            else:
                self.refuse(call, _scope_missing(call, permission.scopes))
        elif permission.fields:
            call.is_to_be_checked = True

    def check_request(self, call: Call, request: Message | None) -> None:
        """Looks at a request of a caller who may not ask for everything, as for what is its own only. Refuses one that
        asks for anything else; `request` is None for a call without one."""
        permission, identity = call.method.permission, call.identity
        assert permission is not None
        assert identity is not None
        try:
            lacking = permission.lacking(request, identity.scopes, identity.subject)
        except Exception as error:
            self._fail(call, error)
            return
        if lacking:
            self.refuse(call, _scope_missing(call, lacking))

    def _fail(self, call: Call, error: Exception) -> None:
        """Ends the call, which the guard itself has failed for. Where it only observes, no call fails for it."""
        if self.enforced:
            raise error
        call.log["exception"] = described(error, call.personal_data())
        self.refuse(call, Unforeseen())

    def refuse(self, call: Call, error: DomainError) -> None:
        """Raises the error where that is enforced. Else logs and counts that it would have been raised, once for each
        reason: who has done something about the first one should not learn only then of the next."""
        reasons, messages = call.log.get("would_refuse"), call.log.get("would_refuse.message")
        if reasons is not None and error.reason in str(reasons).split(","):
            return
        self._refused.labels(call.method.service, call.method.name, error.reason, str(self.enforced).lower()).inc()
        if self.enforced:
            raise error
        call.log["would_refuse"] = error.reason if reasons is None else f"{reasons},{error.reason}"
        call.log["would_refuse.message"] = error.message if messages is None else f"{messages} {error.message}"


def refuse(error: DomainError) -> None:
    """Refuses the call that is being served: raises the error. Where the server only observes who may call what, this
    logs and counts that it would, and returns. For rules beside those of the contracts, in interceptors and handlers.
    """
    call = current()
    if call.guard is None:
        raise error
    call.guard.refuse(call, error)


def _scope_missing(call: Call, needed: frozenset[str]) -> ScopeMissing:
    method, permission = call.path.removeprefix("/"), call.method.permission
    assert permission is not None
    scopes = " ".join(sorted(needed))
    own = f", or the scope {SELF} and an id of the caller's own" if permission.own else ""
    # Who has forgotten the token, and has a certificate to connect with, should not look for a scope.
    by_certificate = call.identity is not None and call.identity.name
    without = " The call has no token, and the client's certificate is not granted that." if by_certificate else ""
    return ScopeMissing(f"{method} needs {scopes}{own}.{without}", method=method, scopes=scopes)
