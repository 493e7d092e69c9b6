"""The settings of a server: one immutable object, validated when it is made.

`flags.py` makes it from flags, environment variables and a file; a test makes it directly. Every setting has a flag, a
variable and a key of the file, whose names follow from its own by one rule (`flag`, `ServerSettings.variable`,
`ServerSettings.key`), so an error can name them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from handfast.server.process.addresses import (
    MAX_PORT,
    check_file_or_url,
    check_peer_address,
    is_loopback,
    join_address,
    split_address,
)
from handfast.server.process.certificates import Certificates, NamedFile, UnusableFile, load
from handfast.server.process.command import Failure
from handfast.server.process.processors import ANY, usable_processors
from handfast.server.process.secrets import read_token

LOG_LEVELS = ("debug", "info", "warning", "error")
AUTHENTICATION = ("off", "observe", "enforce")
SCOPE = re.compile(r"[!#-\[\]-~]+")
"""What a token can carry as a scope (https://www.rfc-editor.org/rfc/rfc6749#section-3.3)."""
METRICS_PORT_OFFSET = 100
MAX_AGE = 2_000_000
"""Seconds; gRPC counts milliseconds in 31 bits."""
MAX_LEEWAY = 300
"""Seconds; so much longer a token that was stolen can be used."""

# These differ from server to server, so their variables carry the server's name. All others are the same for all.
_OF_ONE_SERVER = frozenset(
    {
        *("listen", "metrics_listen", "database_url", "processor"),
        *("tls_certificate", "tls_key", "peer_certificate", "peer_key", "peer_token"),
    }
)
_FLAGS_OF_COMMANDS = frozenset({"config", "help", "print_config"})
_LONGEST_SQLITE_PATH = 504  # bytes; those of the files beside it have to fit into 512
_DATABASE_URL = re.compile(r"(sqlite(\+pysqlite)?:///.+|postgresql(\+psycopg)?://.+)", re.DOTALL)
# Those of libpq that are no secret: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
_PUBLIC_PARAMETERS = frozenset(
    {
        *("host", "hostaddr", "port", "dbname", "user", "passfile", "service", "options", "application_name"),
        *("sslmode", "sslrootcert", "sslcert", "sslkey", "channel_binding", "require_auth", "target_session_attrs"),
        *("connect_timeout", "tcp_user_timeout", "keepalives", "load_balance_hosts"),
    }
)
_PUBLIC_VALUE = re.compile(r"[\w.,:/~+%-]*")
# A user with a colon that is encoded may be one with the password.
_PUBLIC_PLACE = re.compile(
    r"sqlite(\+pysqlite)?:///.*|"
    r"postgresql(\+psycopg)?://(((?!%3a)[\w.~+%-])*@)?([\w.-]*|\[[\w:.%]*\])(:\d*)?(/[^:@#;&=]*)?",
    re.DOTALL | re.IGNORECASE,
)
HIDDEN = "(hidden)"
"""Stands for a secret of which no part can be shown."""


class SettingsError(Failure):
    """A setting breaks a rule. The message is one line that names the rule, and flag and environment variable or, for a
    value of a file, its key and the file."""

    def __init__(self, names: str, rule: str) -> None:
        super().__init__(f"{names} {rule}")


def flag(setting: str) -> str:
    """`metrics_listen` as a flag: `--metrics-listen`."""
    return "--" + setting.replace("_", "-")


def names(setting: str, variable: str) -> str:
    """What an error calls a setting that is not of a file."""
    return f"{flag(setting)} (or {variable})"


def setting(value: Any, help: str, **more: object) -> Any:
    """A field with a default, which is a setting: see ServerSettings. In the help, `default` stands for the default."""
    return field(default=value, metadata={"help": help, **more})


def without_password(database_url: str) -> str:
    """The URL without its password, and with no parameters but those that are no secret: fit to be printed. HIDDEN for
    what has another form: where that is mistyped, the password may be anywhere in it."""
    # What counts as the password is what SQLAlchemy's make_url takes for it.
    place, _, parameters = re.sub(r"^([\w+]+://[^:/]*):[^@]*@", r"\1@", database_url).partition("?")
    if not _PUBLIC_PLACE.fullmatch(place):
        return HIDDEN
    kept = [each for each in parameters.split("&") if _is_public(*each.partition("=")[::2])]
    return "?".join(filter(None, (place, "&".join(kept))))


def _is_public(parameter: str, value: str) -> bool:
    return parameter in _PUBLIC_PARAMETERS and _PUBLIC_VALUE.fullmatch(value) is not None


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """The settings that every server has.

    What each is for, with its unit, is the help that stands beside it. An address is `HOST:PORT`, with an IPv6 host in
    brackets and port 0 for any free port; `metrics_listen` left empty is the host of `listen` and its port + 100. The
    ages of connections are those of gRPC (https://github.com/grpc/proposal/blob/master/A9-server-side-conn-mgt.md).

    A subclass adds settings by adding fields of type str, int, float (in seconds), bool or `tuple[str, ...]`, whose
    flag may be repeated and whose variable has commas between the values. A field is a setting, with a flag, a variable
    and a key of the file, where its metadata has a `help`; a `metavar` there stands for the value in the help, FILE or
    DIRECTORY for one that is a path, and `bounds` are the least and the greatest number that is allowed. One that is
    `secret` is shown nowhere, and may be in a file of its own instead, which the variable with `_FILE` at its end
    names; where a part of it may be shown, `secret` is a function that gives that. A subclass adds other rules by
    extending `__post_init__`.

    Raises SettingsError for the first setting that breaks its rule.
    """

    name: str
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """What errors call settings, by their names, where that is not flag and variable: a key of a file."""
    listen: str = field(metadata={"help": "address to serve on", "metavar": "HOST:PORT"})
    metrics_listen: str = setting(
        "", "address to serve /metrics on", default="as --listen, port + 100", metavar="HOST:PORT"
    )
    threads: int = setting(16, "calls that a server answers at a time", bounds=(1, 1000))
    queue: int = setting(48, "calls that may wait for their turn; further ones are refused", bounds=(0, 100_000))
    grace: float = setting(10.0, "seconds that calls in flight get to end when a server stops", bounds=(0, 3600))
    stream_idle_timeout: float = setting(
        30.0,
        "seconds that a call may keep the server waiting for a request, or until it takes a reply",
        bounds=(0, MAX_AGE),
    )
    max_connections: int = setting(
        10_000, "connections that callers may have at a time; further ones are closed at once", bounds=(1, 1_000_000)
    )
    max_connection_age: float = setting(
        1800.0,
        "seconds, give or take a tenth, after which a client is asked to connect anew; without mutual TLS, 0 for never",
        bounds=(0, MAX_AGE),
    )
    max_connection_age_grace: float = setting(
        300.0, "seconds that calls in flight get to end when their connection is that old", bounds=(0, MAX_AGE)
    )
    processor: str = setting(
        ANY, "number of the one processor that this server's Python runs on, or any", metavar=f"NUMBER|{ANY}"
    )
    log_level: str = setting("info", "what is less grave is not logged", metavar="|".join(LOG_LEVELS))
    tracing: bool = setting(
        False, "trace calls by OpenTelemetry, as the standard variables OTEL_… say; needs `handfast[otel]`"
    )
    tls_certificate: str = setting(
        "",
        "PEM file of this server's certificate, followed by those between it and its CA",
        default="none, plain text",
        metavar="FILE",
    )
    tls_key: str = setting(
        "", "PEM file of that certificate's key, which nobody else may read", default="none", metavar="FILE"
    )
    tls_client_ca: str = setting(
        "",
        "PEM file of the CAs of which callers must have a certificate, each valid beside the others (mutual TLS)",
        default="none, callers need no certificate",
        metavar="FILE",
    )
    peer_ca: str = setting(
        "",
        "PEM file of the CAs of the servers that this one calls, each valid beside the others",
        default="none, plain text",
        metavar="FILE",
    )
    peer_certificate: str = setting(
        "",
        "PEM file of the certificate that this server shows to those",
        default="as --tls-certificate",
        metavar="FILE",
    )
    peer_key: str = setting("", "PEM file of that certificate's key", default="as --tls-key", metavar="FILE")
    peer_token: str = setting(
        "", "file of the token that this server shows to those, in one line", default="none", metavar="FILE"
    )
    peer_server_name: str = setting(
        "",
        "the name that the certificates of those have to have; a list of several hosts needs it",
        default="the host of each address",
        metavar="HOST",
    )
    authentication: str = setting(
        "off",
        "whether calls need an identity with the right permission; observe lets all pass, and logs and counts those "
        "that enforce would refuse",
        metavar="|".join(AUTHENTICATION),
    )
    token_keys: str = setting(
        "",
        "public keys that tokens are signed with, as a JSON Web Key Set; a URL is https, unless it is on loopback",
        default="no tokens",
        metavar="FILE|URL",
    )
    token_issuer: str = setting("", "who issues tokens: their `iss`", default="required with --token-keys")
    token_audience: str = setting(
        "", "whom tokens must be meant for: one of their `aud`", default="required with --token-keys"
    )
    token_leeway: float = setting(
        30.0, "seconds by which the clock of who issues tokens may be wrong", bounds=(0, MAX_LEEWAY)
    )
    revoked_tokens: str = setting(
        "", "ids (`jti`) of tokens that count no more, one a line", default="none are revoked", metavar="FILE"
    )
    certificate_grants: str = setting(
        "", "TOML file of the scopes that names of client certificates have", default="no scopes", metavar="FILE"
    )
    reflection: str = setting(
        "open",
        "who may ask for the contracts: everybody, nobody, or callers with a scope of this name",
        metavar="open|off|SCOPE",
    )
    calls_per_second_per_caller: int = setting(
        0, "calls that an identity may make a second in the long run, at each server; 0 for any", bounds=(0, 1_000_000)
    )
    calls_burst_per_caller: int = setting(
        100, "calls that it may make at once, where the rate is bounded", bounds=(1, 1_000_000)
    )
    allow_plaintext_beyond_loopback: bool = setting(
        False, "listen where other machines can reach this server, without TLS"
    )
    allow_anonymous_beyond_loopback: bool = setting(
        False, "serve other machines whoever they are, without authentication and without mutual TLS"
    )

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        for name, each in vars(cls).items():
            if not isinstance(each, Field):  # the class is no dataclass yet
                continue
            if name in _FLAGS_OF_COMMANDS:
                raise TypeError(f"{cls.__name__}.{name}: each server has a flag {flag(name)} that is no setting")
            if each.metadata.get("secret"):
                each.repr = False  # the log goes by this, too

    def __post_init__(self) -> None:
        self._check_listen("listen", self.listen)
        if not self.metrics_listen:
            host, port = split_address(self.listen)
            metrics_port = port + METRICS_PORT_OFFSET if port else 0
            room = f"is {self.listen}, which leaves no port for metrics {METRICS_PORT_OFFSET} above; "
            self.require("listen", metrics_port <= MAX_PORT, f"{room}say {flag('metrics_listen')}")
            object.__setattr__(self, "metrics_listen", join_address(host, metrics_port))
        self._check_listen("metrics_listen", self.metrics_listen)
        self._check_transport()
        for each in fields(self):
            if bounds := each.metadata.get("bounds"):
                least, greatest = bounds
                value: float = getattr(self, each.name)
                unit = " seconds" if isinstance(each.default, float) else ""
                found = "" if each.metadata.get("secret") else f", not {shown(value)}"
                rule = f"must be from {least} to {greatest}{unit}{found}"
                self.require(each.name, least <= value <= greatest, rule)
        self.require(
            "processor",
            self.processor in (ANY, *map(str, usable_processors())),
            f"must be {ANY} or the number of a processor that this process may use, not {self.processor!r}",
        )
        self.require(
            "log_level", self.log_level in LOG_LEVELS, f"must be one of {', '.join(LOG_LEVELS)}, not {self.log_level!r}"
        )
        missing = "needs OpenTelemetry, which is not installed: pip install 'handfast[otel]'"
        self.require("tracing", not self.tracing or _is_installed("opentelemetry.sdk.trace"), missing)
        self._check_authentication()

    def require(self, setting: str, holds: object, rule: str) -> None:
        """Raises SettingsError unless the rule holds. `rule` is worded to follow the setting's name."""
        if not holds:
            raise self._error(setting, rule)

    def _error(self, setting: str, rule: str) -> SettingsError:
        called = self.origins.get(setting) or names(setting, self.variable(self.name, setting))
        return SettingsError(called, rule)

    @classmethod
    def key(cls, setting: str) -> str:
        """What a setting is called in a file: as here, or by the plural where several stand in its place."""
        return setting

    @classmethod
    def variable(cls, server: str, setting: str) -> str:
        """The environment variable of a setting: `HANDFAST_USERS_LISTEN` for `listen` of the server `users`."""
        key = cls.key(setting)
        return "HANDFAST_" + (f"{server}_{key}" if setting in _OF_ONE_SERVER else key).upper()

    def check_peer(self, setting: str) -> None:
        """Raises SettingsError unless the setting says where a peer is, as `check_peer_address` does."""
        self.check(setting, check_peer_address)

    def check(self, setting: str, rule: Callable[[Any], object]) -> None:
        """Raises SettingsError where `rule` raises ValueError for the value, worded to follow the setting's name."""
        try:
            rule(getattr(self, setting))
        except ValueError as error:
            raise self._error(setting, str(error)) from None

    def own_certificates(self) -> Certificates | None:
        """The files of the settings `tls_…`, read and checked; None for plain text. Raises SettingsError."""
        return self._certificates("tls_certificate", "tls_key", "tls_client_ca")

    def peer_certificates(self) -> Certificates | None:
        """The files of the settings `peer_…`, read and checked; None for plain text. Raises SettingsError."""
        return self._certificates("peer_certificate", "peer_key", "peer_ca")

    def _certificates(self, *settings: str) -> Certificates | None:
        certificate, key, ca = (NamedFile(each, getattr(self, each)) for each in settings)
        if not certificate.path and not ca.path:
            return None
        try:
            return load(certificate, key, ca)
        except UnusableFile as error:
            raise self._error(error.setting, str(error)) from None

    def _check_transport(self) -> None:
        self._require_with("tls_certificate", "tls_key")
        self._require_with("tls_key", "tls_certificate")
        self._require_with("tls_client_ca", "tls_certificate")
        self._require_with("peer_certificate", "peer_key")
        self._require_with("peer_key", "peer_certificate")
        self._require_with("peer_certificate", "peer_ca")
        if self.peer_ca and not self.peer_certificate:
            object.__setattr__(self, "peer_certificate", self.tls_certificate)
            object.__setattr__(self, "peer_key", self.tls_key)
        self._require_with("peer_server_name", "peer_ca")
        self.own_certificates()
        self.peer_certificates()
        self.require(
            "max_connection_age",
            self.max_connection_age or not self.tls_client_ca,
            f"is 0, so callers would stay connected whose certificates have expired; with {flag('tls_client_ca')} it "
            "must have an end",
        )
        if self.peer_token:
            self.check("peer_token", read_token)

    def _require_with(self, setting: str, other: str) -> None:
        self.require(setting, not getattr(self, setting) or getattr(self, other), f"needs {flag(other)}, too")

    def _check_authentication(self) -> None:
        self.require(
            "authentication",
            self.authentication in AUTHENTICATION,
            f"must be one of {', '.join(AUTHENTICATION)}, not {self.authentication!r}",
        )
        if self.token_keys:
            self.check("token_keys", check_file_or_url)
            # Without these, a token that was made for another service would do here (RFC 8725, 3.8 and 3.9).
            for each in ("token_issuer", "token_audience"):
                self.require(each, getattr(self, each) != "", f"is required with {flag('token_keys')}")
        self.require(
            "authentication",
            self.authentication == "off" or self.token_keys or self.tls_client_ca,
            f"is {self.authentication}, but callers can have no identity: say {flag('token_keys')} or "
            f"{flag('tls_client_ca')}",
        )
        for each in ("token_issuer", "token_audience", "revoked_tokens"):
            self._require_with(each, "token_keys")
        self._require_with("certificate_grants", "tls_client_ca")
        self.require(
            "calls_per_second_per_caller",
            not self.calls_per_second_per_caller or self.authentication != "off",
            f"needs {flag('authentication')}, as callers have no identity without it",
        )
        if self.reflection not in ("open", "off"):
            scope = f"is the scope {self.reflection!r}, "
            self.require("reflection", SCOPE.fullmatch(self.reflection) is not None, f"{scope}which no token can have")
            known = self.authentication != "off"
            self.require("reflection", known, f"{scope}but callers have none: say {flag('authentication')}")

    def _check_listen(self, setting: str, address: str) -> None:
        self.check(setting, split_address)
        if is_loopback(split_address(address)[0]):
            return
        faults = {}
        if not (self.tls_certificate or self.allow_plaintext_beyond_loopback):
            faults["in plain text"] = f"{flag('tls_certificate')} or {flag('allow_plaintext_beyond_loopback')}"
        known = self.tls_client_ca or self.authentication == "enforce"
        if setting == "listen" and not (known or self.allow_anonymous_beyond_loopback):
            ways = f"{flag('authentication')} enforce, {flag('tls_client_ca')}"
            faults["without authentication"] = f"{ways} or {flag('allow_anonymous_beyond_loopback')}"
        self.require(
            setting,
            not faults,
            f"is {address}, which other machines may reach {' and '.join(faults)}; "
            f"listen on loopback, or say {', and '.join(faults.values())}",
        )


@dataclass(frozen=True, kw_only=True)
class DatabaseSettings(ServerSettings):
    """The settings of a server with a database of its own.

    `database_url` is `sqlite:///FILE`, percent-encoded, or a URL of PostgreSQL. A server does not
    start on one that is absent, empty or behind its code. With `migrate` it sets that up or upgrades it first, but for
    `database_must_exist`: then it refuses one that is absent or empty. With `database_must_replicate` it uses no
    connection to a PostgreSQL that would commit without waiting until a synchronous standby has stored it.
    """

    database_url: str = field(
        metadata={
            "help": "sqlite:////absolute/file or postgresql://user:password@host/name",
            "metavar": "URL",
            "secret": without_password,
        },
    )

    database_must_exist: bool = setting(
        False, "refuse a database that is not there or is empty, instead of setting it up"
    )
    database_must_replicate: bool = setting(
        False, "refuse a PostgreSQL whose commits do not wait for a synchronous standby"
    )
    migrate: bool = setting(False, "set the database up or upgrade it before serving, as `handfast migrate` does")

    def __post_init__(self) -> None:
        super().__post_init__()
        # The URL itself stays out of the message.
        self.require(
            "database_url",
            _DATABASE_URL.fullmatch(self.database_url) is not None,
            "must be sqlite:///FILE or postgresql://…",
        )
        if self.database_url.startswith("sqlite"):
            self.check("database_url", sqlite_file)
            self.require(
                "database_must_replicate",
                not self.database_must_replicate,
                "must not be set with SQLite, which does not replicate",
            )
        else:
            # What follows the first @ would be taken for the host, and shown in errors.
            rest = re.sub("^[^:/]*:[^@]*@", "@", self.database_url.partition("://")[2])
            host, _, database = rest.partition("?")[0].partition("/")
            rule = "must have each @ written as %40, but for the one before the host, and each # as %23"
            is_plain = host.count("@") <= 1 and "@" not in database and "#" not in rest
            self.require("database_url", is_plain, rule)


@dataclass(frozen=True, kw_only=True)
class ParticipantLimits(DatabaseSettings):
    """The settings of a server that takes part in transactions: how many it lets callers leave open."""

    max_open_transactions: int = setting(
        10_000, "transactions that may be open at a server; those beyond are refused", bounds=(1, 1_000_000)
    )
    max_open_transactions_per_caller: int = setting(
        2_500,
        "transactions of one identity, or connection where callers have none, that may be open at a server",
        bounds=(1, 1_000_000),
    )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of what it is in
        return False


def shown(value: object) -> str:
    """A value as it would be typed: `true`, `a,b`, and a number with all its digits but without `.0` at the end."""
    match value:
        case bool():
            return str(value).lower()
        case float():
            return str(value).removesuffix(".0")
        case tuple():
            return ",".join(map(shown, value))
    return str(value)


def sqlite_url(file: Path) -> str:
    """The URL of an SQLite database, whatever its path has in it."""
    return f"sqlite:///{quote(os.fsencode(file))}"


def sqlite_file(url: str) -> Path:
    """The inverse of `sqlite_url`. Raises ValueError, worded to follow the setting's name."""
    text = url.partition(":///")[2]
    if "?" in text:
        raise ValueError("takes no parameters for SQLite; a question mark of the path is written %3F")
    if not text or text == ":memory:" or "%00" in text:
        raise ValueError("must name a file: sqlite:////absolute/path")
    path = os.path.abspath(unquote_to_bytes(os.fsencode(text)))
    if len(path) > _LONGEST_SQLITE_PATH:
        raise ValueError(f"names a path of {len(path)} bytes, and SQLite takes up to {_LONGEST_SQLITE_PATH}")
    return Path(os.fsdecode(path))
