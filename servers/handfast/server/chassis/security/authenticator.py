"""Finds out who calls: by a token, else by a client certificate."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

import grpc
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from handfast.server.chassis.call import Call
from handfast.server.chassis.errors import NotAuthenticated, PeerUnavailable
from handfast.server.chassis.operations.readiness import Check
from handfast.server.chassis.security.callers import FORWARD
from handfast.server.chassis.security.grants import Grants, parse_grants
from handfast.server.chassis.security.holder import certificate_name
from handfast.server.chassis.security.identity import Identity
from handfast.server.chassis.security.keys import Key, parse_keys
from handfast.server.chassis.security.sources import Source
from handfast.server.chassis.security.tokens import TokenCheck, key_id, parse_revoked
from handfast.server.process.settings import ServerSettings

AUTHORIZATION_KEY = "authorization"
MAX_CHECKED = 10_000
"""Tokens that are remembered as good."""
FIRST_PATIENCE = 2.0
"""Seconds that a server which starts waits for an answer from where its keys are."""

T = TypeVar("T")
_Checked = dict[bytes, tuple[Identity, float]]


class Authenticator(Collector):
    """Finds out who calls. A `Background`: between `start` and `stop` it looks for changes of what it trusts.

    A check of a signature takes far longer than all else, so who a good token belongs to is remembered, by the digest
    of the token, until it expires, or the keys or the revoked tokens change.

    checks    for readiness: raises while there are no keys

    `scopes` are those that the server's methods need, to find slips of the pen in grants. Raises SettingsError where a
    file that is to be trusted cannot be read.
    """

    def __init__(self, settings: ServerSettings, scopes: Collection[str] = ()) -> None:
        self._check = TokenCheck(settings.token_issuer, settings.token_audience, settings.token_leeway)
        self._checked: _Checked = {}
        self._lock = threading.Lock()
        self._keys = _source(settings, "token_keys", parse_keys, self._forget)
        self._revoked = _source(settings, "revoked_tokens", parse_revoked, self._forget)
        self._grants = _source(
            settings, "certificate_grants", partial(parse_grants, known={*scopes, FORWARD}), lambda: None
        )
        self._sources = [each for each in (self._keys, self._revoked, self._grants) if each is not None]
        self.checks: Sequence[Check] = () if self._keys is None else (self._check_keys,)
        self._results = Counter(
            "handfast_authentications",
            "Calls by what became of finding out who makes them: ok, or the problem.",
            ["result"],
            registry=None,
        )
        self._ok = self._results.labels("ok")

    def register(self, registry: CollectorRegistry) -> None:
        """Shows its metrics there."""
        registry.register(self)
        registry.register(self._results)

    def start(self) -> None:
        for source in self._sources:
            source.start(FIRST_PATIENCE)

    def stop(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        for source in self._sources:
            source.stop(max(0.0, end - time.monotonic()))

    def authenticate(self, call: Call, context: grpc.ServicerContext) -> Identity:
        """Who makes the call. A token that is present decides, whatever certificate there is beside it.

        Raises NotAuthenticated, which says what the problem is and quotes nothing of the token, and PeerUnavailable
        while the keys to check it with are on their way.
        """
        try:
            authorization = call.metadata.get(AUTHORIZATION_KEY)
            if authorization is None:
                identity = self._of_certificate(context)
            elif AUTHORIZATION_KEY in call.repeated:
                raise NotAuthenticated("There is more than one authorization.", problem="repeated")
            else:
                identity = self._of_authorization(authorization)
        except NotAuthenticated as error:
            self._results.labels(error.values["problem"]).inc()
            raise
        except PeerUnavailable:
            self._results.labels("keys_unavailable").inc()
            raise
        self._ok.inc()
        return identity

    def _of_certificate(self, context: grpc.ServicerContext) -> Identity:
        proven: Mapping[str, Sequence[bytes]] = context.auth_context()  # type: ignore[assignment]  # its stubs are wrong
        certificates = proven.get("x509_pem_cert")
        if not certificates:
            raise NotAuthenticated("The call has neither a token nor a client certificate.", problem="missing")
        name = certificate_name(certificates[0])
        grants: Grants = {} if self._grants is None else self._grants.value or {}
        return Identity.of_certificate(name, grants.get(name, ()))

    def _of_authorization(self, authorization: str | bytes) -> Identity:
        scheme, _, token = str(authorization).partition(" ")
        if scheme.lower() != "bearer":  # RFC 6750, 2.1; schemes have no case (RFC 9110, 11.1)
            raise NotAuthenticated("The authorization is not of the scheme Bearer.", problem="malformed")
        token = token.strip(" ")
        # Taken before keys and revoked tokens are: what is found out by old ones goes into a dict that is forgotten.
        checked = self._checked
        # Of the token alone: one that comes in many forms is remembered once.
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        known = checked.get(digest)
        if known is not None and time.time() < known[1]:
            return known[0]
        identity, expires_epoch_s = self._of_token(token)
        with self._lock:
            while len(checked) >= MAX_CHECKED:
                del checked[next(iter(checked))]
            checked[digest] = identity, expires_epoch_s
        return identity

    def _of_token(self, token: str) -> tuple[Identity, float]:
        """Whose it is, and when it counts no more."""
        claims = self._check.claims(token, self._key(key_id(token)))
        if claims.id is not None and self._revoked is not None and claims.id in (self._revoked.value or ()):
            raise NotAuthenticated("The token was revoked.", problem="revoked")
        return Identity.of_token(claims.issuer, claims.subject, claims.scopes), claims.expires_epoch_s

    def _key(self, kid: str | None) -> Key:
        if self._keys is None:
            raise NotAuthenticated("This server takes no tokens, but client certificates.", problem="unknown_key")
        keys = self._keys.value
        key = None if keys is None else keys.find(kid)
        if key is not None:
            return key
        # A new key is used as soon as it is published. Callers try again by themselves after this error.
        if self._keys.ask() or keys is None:
            raise PeerUnavailable("The keys that tokens are signed with are not here yet.", retry_after=1.0)
        raise NotAuthenticated("The token is signed with a key that this server does not trust.", problem="unknown_key")

    def _check_keys(self) -> None:
        assert self._keys is not None
        if self._keys.value is None:
            raise ConnectionError(f"the keys of tokens could not be read: {self._keys.failure}")

    def _forget(self) -> None:
        self._checked = {}

    def collect(self) -> Iterator[Metric]:
        age = GaugeMetricFamily(
            "handfast_trust_age_seconds",
            "Time since keys, revoked tokens or grants were read, or seen unchanged.",
            labels=["source"],
        )
        failures = CounterMetricFamily(
            "handfast_trust_failures", "Times that they could not be read.", labels=["source"]
        )
        for source in self._sources:
            age.add_metric([source.name], source.age_s)
            failures.add_metric([source.name], source.failures)
        yield from (age, failures)


def _source(
    settings: ServerSettings, setting: str, parse: Callable[[bytes], T], on_change: Callable[[], None]
) -> Source[T] | None:
    """What the setting names, None where it is empty. A file is read at once; raises SettingsError where it cannot."""
    if not (place := getattr(settings, setting)):
        return None
    source = Source(setting, place, parse, on_change)
    if not source.is_remote:
        try:
            source.read()
        except OSError as error:
            settings.require(setting, False, f"is {place}, which cannot be read: {error.strerror or error}")
        except ValueError as error:
            settings.require(setting, False, f"is {place}, which breaks a rule: {error}")
    return source
