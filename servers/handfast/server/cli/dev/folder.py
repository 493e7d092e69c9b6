"""The folder of credentials for development: what is in it, and how it is made."""

from __future__ import annotations

import datetime
import fcntl
import os
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

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
NAMES_OF_FILES = {"ca", CLIENT, "tokens"}
"""What no server is called, since files that are not a server's have these names."""

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
this folder: who can read it can be anybody. All of it expires {VALID_DAYS} days after it was made or renewed. `handfast
dev-credentials DIRECTORY --renew` renews it, and `handfast up --secure` does so by itself.

dev-ca.crt, dev-ca.key            the CA, by which servers and clients know each other's certificates, and its key
dev-NAME.crt, dev-NAME.key        the certificate of each server and of clients, with its key
dev-NAME.env                      tells a server that is not of the suite, in a shell, where its credentials are
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

    @property
    def unfinished(self) -> Path:
        """Where new files are until all are written. A run that was killed leaves it."""
        return self.folder.with_name(f".{self.folder.name}.unfinished")

    def token(self, role: str) -> Path:
        """That of `admin`, `operator` or `user`."""
        return self.folder / f"dev-{role}.token"

    @property
    def client_variables(self) -> Path:
        return self.folder / "dev-client.env"

    def server_variables(self, name: str) -> Path:
        return self.folder / f"dev-{name}.env"

    @property
    def names(self) -> list[str]:
        """Whom the certificates are for, clients left out."""
        found = (file.stem.removeprefix("dev-") for file in sorted(self.folder.glob("dev-*.crt")))
        return [name for name in found if name not in NAMES_OF_FILES]

    @property
    def expires(self) -> datetime.datetime:
        """When the certificates end. Raises Failure where there is no CA."""
        from cryptography import x509

        return x509.load_pem_x509_certificate(_content(self.ca)).not_valid_after_utc

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

        return tokens.issue(_content(self.signing_key), subject, scopes, int(time.time()) + seconds)


def made_or_make(folder: Path, participants: Sequence[str] = ()) -> DevCredentials:
    """Those in the folder, which is made where it is absent, and renewed where what is in it has expired, or will soon,
    where a renewal was cut short, or a participant has none; that is printed. Raises Failure where it cannot be.
    """
    if not folder.exists():
        return make(folder, participants)
    made = DevCredentials(folder.absolute())
    if lacking := [name for name in participants if not made.certificate(name).exists()]:
        why = f"{', '.join(lacking)} had none"
    elif made.unfinished.exists():
        why = "the last command that renewed them did not come to its end"
    elif made.expires < datetime.datetime.now(datetime.UTC) + _SOON:
        why = f"they were to expire at {made.expires:%Y-%m-%d %H:%M} UTC"
    else:
        return made
    renew(folder, participants)
    click.echo(f"Renewed the credentials for development, as {why}: {made.folder}")
    return made


def make(folder: Path, participants: Sequence[str] = (), subject: str = "ada") -> DevCredentials:
    """Makes the folder, for the servers of the suite and these participants, with a token for what belongs to the user
    `subject`. Nobody but its owner can read what is in it. Raises Failure, with nothing written, where the folder is
    there already or cannot be made.
    """
    _check(participants, subject)
    if folder.exists():
        raise Failure(f"{folder} is there already; --renew renews what is in it, or name another folder")
    made = DevCredentials(folder.absolute())
    contents = _contents(made, [*SERVERS, *participants], subject) | {
        made.revoked_tokens: b"",
        made.grants: _grants([*SERVERS, *participants]).encode(),
    }
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        with _scratch(made) as scratch:
            whole = scratch / "whole"
            shutil.rmtree(whole, ignore_errors=True)
            whole.mkdir(mode=0o700)
            _write(whole, contents)
            whole.rename(made.folder)  # so that there is all of it or nothing
    except OSError as error:
        raise Failure(f"cannot write {folder}: {error.strerror}") from error
    return made


def renew(folder: Path, participants: Sequence[str] = (), subject: str = "") -> DevCredentials:
    """Makes all that expires anew, also for these participants, by the keys that the folder has: what runs by it goes
    on, and takes the new files. Revoked tokens stay so, and so do the grants that somebody has added. Without `subject`
    the token of the user is for whom it was. Raises Failure where the folder has no such keys or cannot be written.
    """
    import tomllib

    from handfast.server.cli.dev import tokens
    from handfast.server.cli.dev.certificates import spiffe_id

    made = DevCredentials(folder.absolute())
    try:
        subject = subject or tokens.subject(_content(made.token("user")))
        _check(participants, subject)
        names = [*made.names, *(name for name in participants if name not in made.names)]
        granted = _content(made.grants).decode().rstrip() + "\n"
        known = tomllib.loads(granted)["grants"]
        granted += _grants([name for name in names if spiffe_id(name) not in known], header="")
        contents = _contents(made, names, subject, keys=(_content(made.ca_key), _content(made.signing_key)))
    except (KeyError, TypeError, ValueError) as error:
        raise Failure(f"cannot renew {folder}, in which a file is damaged: {error}; remove the folder") from error
    contents[made.grants] = granted.encode()
    try:
        with _scratch(made) as scratch:
            _write(scratch, contents)
            # Each certificate before its key, as servers expect it. The CA is the last: by it the next run sees that
            # all the others were renewed, or renews them once more.
            for path in sorted(contents, key=lambda path: path == made.ca):
                (scratch / path.name).rename(path)
    except OSError as error:
        raise Failure(f"cannot write {folder}: {error.strerror}") from error
    return made


def _check(participants: Sequence[str], subject: str) -> None:
    for name in participants:
        if not NAME.fullmatch(name) or name in NAMES_IN_USE | NAMES_OF_FILES:
            raise Failure(
                f"{name!r} cannot be the name of another server; it is in use, or has other characters than a-z"
            )
    if not subject:
        raise Failure("the subject of a token must not be empty")


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise Failure(f"cannot read {file}: {error.strerror}") from error


@contextmanager
def _scratch(made: DevCredentials) -> Iterator[Path]:
    """A folder for new files. One that a killed run has left, with keys in it, is used again, and so removed in the
    end. Raises OSError, and Failure where another run uses it.
    """
    scratch = made.unfinished
    scratch.mkdir(mode=0o700, exist_ok=True)
    opened = os.open(scratch, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which ends with the process
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch)
    except BlockingIOError as error:
        raise Failure(f"another command makes or renews {made.folder} at this moment") from error
    finally:
        os.close(opened)


def _write(folder: Path, contents: Mapping[Path, bytes]) -> None:
    for path, content in contents.items():
        target = folder / path.name
        target.touch(mode=0o600)
        target.write_bytes(content)


def _contents(
    made: DevCredentials, servers: Sequence[str], subject: str, keys: tuple[bytes, bytes] | None = None
) -> dict[Path, bytes]:
    """What is in each file, but for grants and revoked tokens. It names the files by the folder in which they will be.
    `keys` are those of the CA and of tokens, which are made where there are none.
    """
    from handfast.server.cli.dev import certificates, tokens

    expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=VALID_DAYS)
    ca_key, signing_key = map(certificates.read_key, keys) if keys else (certificates.new_key(), certificates.new_key())
    authority = certificates.make_authority(ca_key, expires)
    signing_pem = certificates.key_pem(signing_key)
    contents = {
        made.folder / "NOT-FOR-PRODUCTION.txt": _NOTICE.encode(),
        made.ca: authority.certificate_pem,
        made.ca_key: authority.key_pem,
        made.token_keys: tokens.key_set(signing_key).encode(),
        made.signing_key: signing_pem,
        made.client_variables: _exports("client", made.of_client()).encode(),
    }
    for name in (*servers, CLIENT):
        pair = certificates.issue(authority, name, expires)
        contents |= {made.certificate(name): pair.certificate_pem, made.key(name): pair.key_pem}
    participants = [name for name in servers if name not in SERVERS]
    for name in participants:
        contents[made.server_variables(name)] = _exports(name, made.of_server(name)).encode()
    of_participants = [f"{name}.{action}" for name in participants for action in ("read", "write")]
    roles = {
        "admin": ("admin", (*_ADMIN, *of_participants)),
        "operator": ("operator", _OPERATOR),
        "user": (subject, _USER),
    }
    for role, (who, scopes) in roles.items():
        token = tokens.issue(signing_pem, who, scopes, int(expires.timestamp()))
        contents[made.token(role)] = f"{token}\n".encode()
    return contents


_GRANTS_HEADER = """\
# Not for production. What the holders of these certificates may do, beside what tokens allow.
[grants]
"""


def _grants(servers: Sequence[str], header: str = _GRANTS_HEADER) -> str:
    from handfast.server.cli.dev.certificates import spiffe_id

    lines = []
    for name in servers:
        scopes = ", ".join(f'"{scope}"' for scope in _GRANTS.get(name, _RESOLVES))
        lines.append(f'"{spiffe_id(name)}" = [{scopes}]\n')
    return "".join((header, *lines))


def _exports(name: str, variables: Mapping[str, str]) -> str:
    lines = [f"# Not for production. Read it into a shell: . dev-{name}.env"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    return "".join(f"{line}\n" for line in lines)
