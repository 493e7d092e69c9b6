"""Certificates in PEM files, checked together before they are used: a certificate, its key, and the CAs of others."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from handfast.server.process.secrets import read_public, read_secret

if TYPE_CHECKING:  # most commands do without, and it takes as long to import as they do
    from cryptography import x509


_BEGIN = b"-----BEGIN CERTIFICATE-----"


class UnusableFile(ValueError):
    """A file cannot be used. `setting` names it, and the message is worded to follow that name."""

    def __init__(self, setting: str, rule: str) -> None:
        super().__init__(rule)
        self.setting = setting


@dataclass(frozen=True, slots=True)
class NamedFile:
    """The path of a file, and the setting that gives it; the path is empty where it is not given."""

    setting: str
    path: str


@dataclass(frozen=True, slots=True)
class Certificates:
    """What one end of a connection proves itself with, and by what it checks the other; all of it PEM.

    `certificate` is followed by those between it and its CA, and is empty, as `key` is, where this end proves nothing.
    `ca` is empty where the other end need not prove itself. `expiry` has the Unix time in seconds at which each of them
    expires, by setting: of a certificate the time of the first between it and its CA, of CAs that of the last.
    """

    certificate: bytes
    key: bytes = field(repr=False)
    ca: bytes
    expiry: dict[str, float]


def load(certificate: NamedFile, key: NamedFile, ca: NamedFile) -> Certificates:
    """Reads files that belong together, and checks them.

    Raises UnusableFile where a file cannot be read or is no PEM, others can read the key or it needs a password, it is
    not that of the certificate, a certificate is not valid now or has not signed the one before it, or what is given
    for a CA is none, or all CAs have expired.
    """
    now = datetime.datetime.now(datetime.UTC)
    expiry: dict[str, float] = {}
    certificate_pem = key_pem = ca_pem = b""
    if certificate.path:
        with _naming(certificate):
            certificate_pem = read_public(certificate.path)
            chain = _certificates(certificate.path, certificate_pem)
            _check_chain(certificate.path, chain, now)
            expiry[certificate.setting] = min(each.not_valid_after_utc for each in chain).timestamp()
        with _naming(key):
            key_pem = read_secret(key.path)
            _check_key(key.path, key_pem, chain[0], certificate.path)
    if ca.path:
        with _naming(ca):
            ca_pem = read_public(ca.path)
            cas = _certificates(ca.path, ca_pem)
            for each in cas:
                if not _is_ca(each):
                    raise ValueError(f"names {ca.path}, in which {_who(each)} is no CA")
            last = max(each.not_valid_after_utc for each in cas)
            if last <= now:
                raise ValueError(f"names {ca.path}, whose last CA expired at {_shown(last)}")
            expiry[ca.setting] = last.timestamp()
    return Certificates(certificate_pem, key_pem, ca_pem, expiry)


@contextmanager
def _naming(file: NamedFile) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise UnusableFile(file.setting, str(error)) from None


def _certificates(path: str, pem: bytes) -> Sequence[x509.Certificate]:
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ValueError(f"names {path}, which must hold certificates in PEM") from None
    if len(found) < pem.count(_BEGIN):  # one that has no end, which the library passes over
        raise ValueError(f"names {path}, in which a certificate is damaged")
    return found


def _is_ca(certificate: x509.Certificate) -> bool:
    """Also one that stands for itself alone, as it has signed itself."""
    from cryptography import x509

    try:
        says_so = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        says_so = False
    return says_so or certificate.issuer == certificate.subject


def _who(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or "a certificate"


def _check_chain(path: str, chain: Sequence[x509.Certificate], now: datetime.datetime) -> None:
    from cryptography.exceptions import InvalidSignature

    for each in chain:
        who = _who(each)
        if each.not_valid_after_utc <= now:
            raise ValueError(f"names {path}, in which {who} expired at {_shown(each.not_valid_after_utc)}")
        if each.not_valid_before_utc > now:
            raise ValueError(f"names {path}, in which {who} is not valid before {_shown(each.not_valid_before_utc)}")
    for signed, signer in itertools.pairwise(chain):
        try:
            signed.verify_directly_issued_by(signer)
        except (InvalidSignature, TypeError, ValueError):
            raise ValueError(f"names {path}, in which a certificate has not signed the one before it") from None


def _check_key(path: str, pem: bytes, certificate: x509.Certificate, certificate_path: str) -> None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise ValueError(f"names {path}, a key with a password; it must have none") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"names {path}, which must hold a private key in PEM") from None
    if key.public_key() != certificate.public_key():
        raise ValueError(f"names {path}, which is not the key of the certificate in {certificate_path}")


def _shown(time: datetime.datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
