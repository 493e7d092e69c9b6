"""The folder of credentials for development: what is in it, and how it is made."""

from __future__ import annotations

import datetime
import shlex
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from handfast.server.process.command import Failure
from handfast.server.process.settings import ServerSettings
from handfast.server.suite import DATABASES, NAME, NAMES_IN_USE

CREDENTIALS = "dev-credentials"
"""The folder in the data directory of a suite that is started with `--secure`."""
VALID_DAYS = 30
"""How long what is made here can be used."""
_SOON = datetime.timedelta(hours=12)
CLIENT = "client"
"""Whose certificate callers show. It is granted nothing: what a caller may do is in its token."""
SERVERS = tuple(DATABASES)
_NAMES_OF_FILES = {"ca", CLIENT, "tokens"}

_RESOLVES = ("transactions.run", "transactions.resolve")
_DATA = ("users.read", "users.write", "preferences.read", "preferences.write")
_GRANTS = {
    "accounts": (*_DATA, "callers.forward", "branches.read", "branches.write"),
    "users": _RESOLVES,
    "preferences": _RESOLVES,
}
"""What the suite's servers may do at each other. A participant that is not of the suite asks about transactions only,
as users and preferences do."""
_ADMIN = (*_DATA, "preferences.define", "transactions.run")
_OPERATOR = ("transactions.run", "transactions.operate", "branches.read")
_USER = ("self", "transactions.run")

_NOTICE = f"""\
NOT FOR PRODUCTION

These credentials are for trying and testing Handfast on one machine. The keys that sign certificates and tokens are in
this folder: who can read it can be anybody. All of it expires {VALID_DAYS} days after it was made; then remove the
folder, and make a new one with `handfast dev-credentials`.

dev-ca.crt, dev-ca.key            the CA, by which servers and clients know each other's certificates, and its key
dev-NAME.crt, dev-NAME.key        the certificate of each server and of clients, with its key
dev-grants.toml                   what a server may do at the others, by the name in its certificate
dev-tokens.jwks.json              the key by which servers check tokens, and
dev-tokens.key                    the key that signs them
dev-revoked.txt                   the ids (jti) of tokens that servers refuse, one a line; none as yet
dev-admin.token                   a token for all data
dev-operator.token                a token for `handfast transactions`
dev-user.token                    a token for what belongs to one user
dev-client.env                    tells clients and `handfast` commands in a shell where their credentials are
"""


@dataclass(frozen=True, slots=True)
class DevCredentials:
    """The files in such a folder."""

    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / "dev-ca.crt"

    @property
    def ca_key(self) -> Path:
        return self.folder / "dev-ca.key"

    def certificate(self, name: str) -> Path:
        """That of a server, or of CLIENT."""
        return self.folder / f"dev-{name}.crt"

    def key(self, name: str) -> Path:
        return self.folder / f"dev-{name}.key"

    @property
    def grants(self) -> Path:
        return self.folder / "dev-grants.toml"

    @property
    def token_keys(self) -> Path:
        return self.folder / "dev-tokens.jwks.json"

    @property
    def signing_key(self) -> Path:
        return self.folder / "dev-tokens.key"

    @property
    def revoked_tokens(self) -> Path:
        return self.folder / "dev-revoked.txt"

    def token(self, role: str) -> Path:
        """That of `admin`, `operator` or `user`."""
        return self.folder / f"dev-{role}.token"

    @property
    def client_variables(self) -> Path:
        return self.folder / "dev-client.env"

    @property
    def expires(self) -> datetime.datetime:
        """When the certificates end. Raises Failure where there is no CA."""
        from cryptography import x509

        try:
            return x509.load_pem_x509_certificate(self.ca.read_bytes()).not_valid_after_utc
        except OSError as error:
            raise Failure(f"cannot read {self.ca}: {error.strerror}") from error

    def of_client(self, role: str = "admin") -> dict[str, str]:
        """The variables that a client takes its credentials from."""
        return {
            "HANDFAST_CA": str(self.ca),
            "HANDFAST_CERTIFICATE": str(self.certificate(CLIENT)),
            "HANDFAST_KEY": str(self.key(CLIENT)),
            "HANDFAST_TOKEN_FILE": str(self.token(role)),
        }

    def of_server(self, name: str) -> dict[str, str]:
        """The variables that a server takes its settings from: mutual TLS with everybody, and no call without a token
        or a certificate that is granted something.
        """
        from handfast.server.cli.dev.tokens import AUDIENCE, ISSUER

        settings = {
            "tls_certificate": self.certificate(name),
            "tls_key": self.key(name),
            "tls_client_ca": self.ca,
            "peer_ca": self.ca,
            "authentication": "enforce",
            "token_keys": self.token_keys,
            "token_issuer": ISSUER,
            "token_audience": AUDIENCE,
            "revoked_tokens": self.revoked_tokens,
            "certificate_grants": self.grants,
        }
        return {ServerSettings.variable(name, setting): str(value) for setting, value in settings.items()}

    def issue(self, subject: str, scopes: Sequence[str], seconds: int) -> str:
        """A token that can be used for so long. Raises Failure where the folder has no key to sign it."""
        from handfast.server.cli.dev import tokens

        try:
            key = self.signing_key.read_bytes()
        except OSError as error:
            raise Failure(f"cannot read {self.signing_key}: {error.strerror}") from error
        return tokens.issue(key, subject, scopes, int(time.time()) + seconds)


def made_or_make(folder: Path, participants: Sequence[str] = ()) -> DevCredentials:
    """Those in the folder, which is made where it is absent. Raises Failure where they have expired, or will soon, and
    where a participant has none.
    """
    if not folder.exists():
        return make(folder, participants)
    made = DevCredentials(folder.absolute())
    again = f"remove {folder} to have new ones made"
    lacking = [name for name in participants if not made.certificate(name).exists()]
    if lacking:
        raise Failure(f"there are no credentials of {', '.join(lacking)} in {folder}; {again}")
    if made.expires < datetime.datetime.now(datetime.UTC) + _SOON:
        raise Failure(f"the credentials for development expire at {made.expires:%Y-%m-%d %H:%M} UTC; {again}")
    return made


def make(folder: Path, participants: Sequence[str] = (), subject: str = "ada") -> DevCredentials:
    """Makes the folder, for the servers of the suite and these participants, with a token for what belongs to the user
    `subject`. Nobody but its owner can read what is in it. Raises Failure, with nothing written, where the folder is
    there already or cannot be made.
    """
    for name in participants:
        if not NAME.fullmatch(name) or name in NAMES_IN_USE | _NAMES_OF_FILES:
            raise Failure(
                f"{name!r} cannot be the name of another server; it is in use, or has other characters than a-z"
            )
    if not subject:
        raise Failure("the subject of a token must not be empty")
    if folder.exists():
        raise Failure(f"{folder} is there already; remove it, or name another folder")
    made = DevCredentials(folder.absolute())
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".dev-credentials-", dir=made.folder.parent) as scratch:
            whole = DevCredentials(Path(scratch, "whole"))
            whole.folder.mkdir(mode=0o700)
            for path, content in _contents(made, [*SERVERS, *participants], subject).items():
                target = whole.folder / path.name
                target.touch(mode=0o600)
                target.write_bytes(content)
            whole.folder.rename(made.folder)  # so that there is all of it or nothing
    except OSError as error:
        raise Failure(f"cannot write {folder}: {error.strerror}") from error
    return made


def _contents(made: DevCredentials, servers: Sequence[str], subject: str) -> dict[Path, bytes]:
    """What is in each file. It names the files by the folder in which they will be."""
    from cryptography.hazmat.primitives.asymmetric import ec

    from handfast.server.cli.dev import certificates, tokens

    expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=VALID_DAYS)
    authority = certificates.make_authority(expires)
    signing_key = ec.generate_private_key(ec.SECP256R1())
    signing_pem = certificates.key_pem(signing_key)
    contents = {
        made.folder / "NOT-FOR-PRODUCTION.txt": _NOTICE.encode(),
        made.ca: authority.certificate_pem,
        made.ca_key: authority.key_pem,
        made.grants: _grants(servers).encode(),
        made.token_keys: tokens.key_set(signing_key).encode(),
        made.signing_key: signing_pem,
        made.revoked_tokens: b"",
        made.client_variables: _exports(made).encode(),
    }
    for name in (*servers, CLIENT):
        pair = certificates.issue(authority, name, expires)
        contents |= {made.certificate(name): pair.certificate_pem, made.key(name): pair.key_pem}
    of_participants = [f"{name}.{action}" for name in servers if name not in SERVERS for action in ("read", "write")]
    roles = {
        "admin": ("admin", (*_ADMIN, *of_participants)),
        "operator": ("operator", _OPERATOR),
        "user": (subject, _USER),
    }
    for role, (who, scopes) in roles.items():
        token = tokens.issue(signing_pem, who, scopes, int(expires.timestamp()))
        contents[made.token(role)] = f"{token}\n".encode()
    return contents


def _grants(servers: Sequence[str]) -> str:
    from handfast.server.cli.dev.certificates import spiffe_id

    lines = [
        "# Not for production. What the holders of these certificates may do, beside what tokens allow.",
        "[grants]",
    ]
    for name in servers:
        scopes = ", ".join(f'"{scope}"' for scope in _GRANTS.get(name, _RESOLVES))
        lines.append(f'"{spiffe_id(name)}" = [{scopes}]')
    return "".join(f"{line}\n" for line in lines)


def _exports(made: DevCredentials) -> str:
    lines = ["# Not for production. Read it into a shell: . dev-client.env"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in made.of_client().items()]
    return "".join(f"{line}\n" for line in lines)
