"""A certificate authority for development, and the certificates that it signs."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

TRUST_DOMAIN = "handfast.test"
"""RFC 6761 keeps `.test` from ever being a domain of somebody's."""
_ON_THIS_MACHINE: tuple[x509.GeneralName, ...] = (
    x509.DNSName("localhost"),
    *(x509.IPAddress(ipaddress.ip_address(each)) for each in ("127.0.0.1", "::1")),
)


def spiffe_id(name: str) -> str:
    """Whom a certificate stands for (https://spiffe.io/docs/latest/spiffe-about/spiffe-concepts)."""
    return f"spiffe://{TRUST_DOMAIN}/{name}"


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return key_pem(self.key)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS #8, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def read_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """The inverse of `key_pem`."""
    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def make_authority(key: ec.EllipticCurvePrivateKey, expires: datetime.datetime) -> Pair:
    """A CA whose certificate it has signed itself."""
    name = _name("Handfast development CA, not for production")
    builder = _builder(name, name, key, expires).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    usage = builder.add_extension(_usage(signs_certificates=True), critical=True)
    return Pair(usage.sign(key, hashes.SHA256()), key)


def issue(authority: Pair, name: str, expires: datetime.datetime) -> Pair:
    """A certificate for a server or a client on this machine: TLS takes it for `localhost`, 127.0.0.1 and ::1, and
    permissions for `spiffe_id(name)`. A server shows it to its callers and to the servers that it calls.
    """
    key = new_key()
    names = x509.SubjectAlternativeName([*_ON_THIS_MACHINE, x509.UniformResourceIdentifier(spiffe_id(name))])
    purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    certificate = (
        _builder(_name(f"{name}, not for production"), authority.certificate.subject, key, expires)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(purposes, critical=False)
        .add_extension(names, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return Pair(certificate, key)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, expires: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=1))
        .not_valid_after(expires)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
