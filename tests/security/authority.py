"""A certificate authority for tests: certificates of servers and of callers, good ones and others."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

CURVE = ec.SECP256R1()
HOUR = datetime.timedelta(hours=1)
LOOPBACK = (
    x509.DNSName("localhost"),
    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    x509.IPAddress(ipaddress.ip_address("::1")),
)


@dataclass(frozen=True, slots=True)
class Files:
    """Paths of PEM files: a certificate, followed by those between it and its CA, and its key."""

    certificate: Path
    key: Path

    def replace(self, others: Files) -> None:
        """Puts these in the place of `others`, the certificate first, as whoever renews certificates does."""
        replace(others.certificate, self.certificate.read_bytes())
        replace(others.key, self.key.read_bytes())


class Authority:
    """A CA, which has files in `folder`; its name begins theirs. `signed_by` is the one above it, if there is one.

    `starts` and `lasts` say when a certificate is valid: from when, as seen from now, and for how long from now.
    """

    def __init__(
        self, folder: Path, name: str = "ca", signed_by: Authority | None = None, lasts: datetime.timedelta = 24 * HOUR
    ) -> None:
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(CURVE)
        self._subject = _name(name)
        builder = _builder(self._key, self._subject, -48 * HOUR, lasts)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        signer = signed_by or self
        certificate = builder.issuer_name(signer._subject).sign(signer._key, hashes.SHA256())
        self.pem = certificate.public_bytes(Encoding.PEM)
        self._between = b"" if signed_by is None else self.pem
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self.pem)

    def server(
        self,
        name: str = "server",
        spiffe: str = "",
        hosts: Sequence[x509.GeneralName] = LOOPBACK,
        starts: datetime.timedelta = -HOUR,
        lasts: datetime.timedelta = HOUR,
        curve: ec.EllipticCurve = CURVE,
    ) -> Files:
        """The certificate of a server on this machine, whose name is also that of its files."""
        return self._issue(name, [*hosts, *_uris(spiffe)], starts, lasts, curve)

    def client(
        self,
        name: str = "client",
        spiffe: str = "spiffe://handfast.test/client",
        starts: datetime.timedelta = -HOUR,
        lasts: datetime.timedelta = HOUR,
        names: Sequence[x509.GeneralName] = (),
    ) -> Files:
        """The certificate of a caller whose name is `spiffe` or, where that is empty, the DNS name `name`; with `names`
        it has these and no others."""
        return self._issue(name, names or [x509.DNSName(name), *_uris(spiffe)], starts, lasts)

    def _issue(
        self,
        name: str,
        names: Sequence[x509.GeneralName],
        starts: datetime.timedelta,
        lasts: datetime.timedelta,
        curve: ec.EllipticCurve = CURVE,
    ) -> Files:
        key = ec.generate_private_key(curve)
        builder = _builder(key, _name(name), starts, lasts).issuer_name(self._subject)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        pem = builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)
        files = Files(self._folder / f"{self._name}-{name}.pem", self._folder / f"{self._name}-{name}.key")
        replace(files.certificate, pem + self._between)
        replace(files.key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return files


def replace(file: Path, content: bytes) -> None:
    """Writes a file that only its owner can read, and puts it in the place of another in one step."""
    new = file.with_name(f"{file.name}.new")
    new.touch(mode=0o600)
    new.write_bytes(content)
    new.replace(file)


def _builder(
    key: ec.EllipticCurvePrivateKey, subject: x509.Name, starts: datetime.timedelta, lasts: datetime.timedelta
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return x509.CertificateBuilder(
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now + min(starts, lasts - HOUR),
        not_valid_after=now + lasts,
    )


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _uris(spiffe: str) -> list[x509.GeneralName]:
    return [x509.UniformResourceIdentifier(spiffe)] if spiffe else []
