"""The name of who holds a client certificate.

It is read from the certificate itself. What grpcio says of it beside that, in the auth context, ends at a NUL, and
lacks some names: https://github.com/grpc/grpc/blob/master/src/core/tsi/ssl_transport_security.cc
"""

from __future__ import annotations

import re
from functools import lru_cache

from cryptography import x509

from handfast.server.chassis.errors import NotAuthenticated

MAX_REMEMBERED = 1_000
"""Certificates whose names are remembered, so that they are not read for each call of a connection."""

_SPIFFE = "spiffe:"
_SPIFFE_ID = re.compile(r"spiffe://[a-z0-9._-]{1,255}(/(?!\.{1,2}(/|$))[A-Za-z0-9._-]+)*")
"""https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md#2-spiffe-identity"""
_MAX_SPIFFE_ID = 2048
_DNS_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


def is_certificate_name(name: str) -> bool:
    """Whether a certificate's holder can be called this: a SPIFFE ID, or a DNS name without a wildcard."""
    return _is_spiffe_id(name) or _DNS_NAME.fullmatch(name) is not None


@lru_cache(MAX_REMEMBERED)
def certificate_name(pem: bytes) -> str:
    """The SPIFFE ID of a certificate, else its first DNS name. Raises NotAuthenticated where it has neither, or what it
    has may mislead: more than one URI beside a SPIFFE ID
    (https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md#2-spiffe-id), or a wildcard.
    """
    try:
        extensions = x509.load_pem_x509_certificate(pem).extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    except (ValueError, x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType):
        raise _nameless("it cannot be read") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if any(uri.lower().startswith(_SPIFFE) for uri in uris):
        if len(uris) > 1:
            raise _nameless("beside a SPIFFE ID it has other URIs, and may have none")
        if not _is_spiffe_id(uris[0]):
            raise _nameless("its SPIFFE ID breaks a rule; such as spiffe://example.org/users is right")
        return uris[0]
    dns_names = names.get_values_for_type(x509.DNSName)
    if not dns_names:
        raise _nameless("it has neither a SPIFFE ID nor a DNS name (subjectAltName)")
    if not _DNS_NAME.fullmatch(dns_names[0]):
        raise _nameless("its first DNS name is a wildcard, or no such name")
    return dns_names[0]


def _is_spiffe_id(name: str) -> bool:
    return len(name) <= _MAX_SPIFFE_ID and _SPIFFE_ID.fullmatch(name) is not None


def _nameless(why: str) -> NotAuthenticated:
    return NotAuthenticated(f"The client certificate names nobody: {why}.", problem="nameless_certificate")
