"""Certificates and keys in files, which are read again when they change."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import grpc

from handfast.client.security.secret_files import read_secret

CHECK_SECONDS = 1.0
"""How often the files are looked at, at the most. They are looked at when a call is made, and not without one."""

_HOST = re.compile(r"[\w.-]+")
_LOG = logging.getLogger("handfast.client")
_Signature: TypeAlias = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class TLS:
    """Has a channel speak TLS, by files in PEM: `ca` with the certificates of those who vouch for servers (without it,
    those that gRPC trusts by itself), and for mutual TLS the client's own `certificate`, with those between it and its
    CA, and the `key` of it. `server_name` is what the certificates of servers have to name, where that is not the host
    of the address that they are called at; a list of several hosts needs it.

    The files are read again when they change; calls then go by a new connection, and those in flight end on the old
    one. A set that does not fit together, such as a certificate without its new key, is left alone until it does.
    A key that others than its owner can reach is refused. Raises TypeError or ValueError, naming the argument, on what
    cannot be files.
    """

    ca: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        for name in ("ca", "certificate", "key"):
            value = getattr(self, name)
            if not isinstance(value, str | os.PathLike | None):
                raise TypeError(f"{self.setting(name)}: must be the path of a file, not {type(value).__name__}")
        if not isinstance(self.server_name, str | None):
            raise TypeError(f"{self.setting('server_name')}: must be a str, not {type(self.server_name).__name__}")
        if self.server_name is not None and not _HOST.fullmatch(self.server_name):
            rule = f"must be the name of a host, without a port, not {self.server_name!r}"
            raise ValueError(f"{self.setting('server_name')}: {rule}")
        if (self.certificate is None) != (self.key is None):
            lacking = "key" if self.key is None else "certificate"
            raise ValueError(f"{self.setting(lacking)}: is needed, too: a certificate is used with its key")

    def setting(self, field: str) -> str:
        """What errors call `ca`, `certificate`, `key` or `server_name`."""
        return f"tls.{field}"


class TLSFiles:
    """The credentials that the files of `tls` give, as they are now. Raises ValueError, naming the file, where they
    cannot be used. Usable from any thread."""

    def __init__(self, tls: TLS) -> None:
        self._tls = tls
        self._checking = threading.Lock()
        self._next_check_s = time.monotonic() + CHECK_SECONDS
        self._seen: _Signature = ()
        """Of the files that were last read, whether or not they could be used."""
        self._credentials = self._load()

    def credentials(self) -> grpc.ChannelCredentials:
        """The same object as long as the files do not change."""
        if time.monotonic() >= self._next_check_s:
            self.check()
        return self._credentials

    def check(self) -> None:
        """Takes what is new in the files, if it can be used. Does nothing while another thread does so."""
        if not self._checking.acquire(blocking=False):
            return
        try:
            if self._signature() != self._seen:
                self._credentials = self._load()
                _LOG.info("The certificates of %s are in use now.", self._tls)
        except ValueError as error:
            _LOG.warning("Certificates have changed and cannot be used; the old ones stay in use. %s", error)
        finally:
            self._next_check_s = time.monotonic() + CHECK_SECONDS
            self._checking.release()

    def _load(self) -> grpc.ChannelCredentials:
        ca, certificate, key = self._paths()
        while self._seen != (seen := self._signature()):  # until they have not changed between being read and checked
            self._seen = seen
            ca_pem = _read(ca, self._tls.setting("ca"))
            certificate_pem = _read(certificate, self._tls.setting("certificate"))
            key_pem = None if key is None else read_secret(key, self._tls.setting("key"))
            self._check_set()
        return grpc.ssl_channel_credentials(ca_pem, key_pem, certificate_pem)

    def _check_set(self) -> None:
        """gRPC would only have each connection fail."""
        import ssl  # only now, as most programs need none of it

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls = self._tls
        if tls.ca is not None:
            try:
                context.load_verify_locations(tls.ca)
            except OSError as error:  # which an SSLError is
                rule = f"{os.fspath(tls.ca)} has no certificate in PEM ({_why(error)})"
                raise ValueError(f"{tls.setting('ca')}: {rule}") from None
        if tls.certificate is not None:
            try:
                context.load_cert_chain(tls.certificate, tls.key, password=self._no_password)
            except OSError as error:
                pair = f"{os.fspath(tls.certificate)} and {os.fspath(tls.key or '')}"
                rule = f"{pair} are no certificate and its key ({_why(error)})"
                raise ValueError(f"{tls.setting('certificate')}: {rule}") from None

    def _no_password(self) -> str:
        key = self._tls.setting("key")
        raise ValueError(f"{key}: must not be encrypted by a password, as nobody is there to give it")

    def _signature(self) -> _Signature:
        """Changes when a file does."""
        return tuple(_signature(path) for path in self._paths())

    def _paths(self) -> tuple[Path | None, ...]:
        return tuple(
            None if path is None else Path(path) for path in (self._tls.ca, self._tls.certificate, self._tls.key)
        )


def _read(path: Path | None, setting: str) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise ValueError(f"{setting}: cannot read {path}: {error.strerror}") from None


def _signature(path: Path | None) -> tuple[int, ...]:
    """The time of a change tells a file that was made its owner's alone, too."""
    try:
        found = None if path is None else path.stat()
    except OSError:
        return ()
    return () if found is None else (found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size)


def _why(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error)
