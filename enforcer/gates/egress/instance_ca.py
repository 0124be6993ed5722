"""The certificate authority of one instance, in memory only: it speaks for the hosts of the instance's `http` grants, and to nobody else.

Its keys are in no file and end with the holder. What it may sign for is also written in its certificate (RFC 5280 4.2.1.10), so whoever
trusts it, trusts it for nothing else.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import ssl
import threading
from collections.abc import Iterable
from ipaddress import ip_network
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from enforcer.wire.destination import Destination
from enforcer.wire.host_tls import H1, H2
from writ.formats.errors import FormatError, Misuse
from writ.service.clock import Clock

_CA_LIFE: Final = dt.timedelta(days=366)
_LEAF_LIFE: Final = dt.timedelta(hours=24)
_EARLIER: Final = dt.timedelta(minutes=5)
_NO_ADDRESS: Final = (x509.IPAddress(ip_network("0.0.0.0/0")), x509.IPAddress(ip_network("::/0")))
_USES: Final = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign",
    "encipher_only", "decipher_only",
)  # fmt: skip


class InstanceCa:
    """Makes a server's side of TLS for each of `hosts`. Thread-safe."""

    def __init__(self, hosts: Iterable[Destination], clock: Clock, taken: bytes | None = None) -> None:
        """`taken` is what `left` gave, of one in the same process: whoever trusts that one, trusts this. Raises FormatError."""
        self._hosts, self._clock = frozenset((one.host, one.literal) for one in hosts), clock
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Writ egress of one instance")])
        self._lock = threading.Lock()
        self._made: dict[str, tuple[dt.datetime, ssl.SSLContext]] = {}
        self._key, self._certificate = self._made_now() if taken is None else _parsed(taken)

    def _made_now(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        now, key = self._now(), ec.generate_private_key(ec.SECP256R1())
        certificate = (
            x509.CertificateBuilder(self._name, self._name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - _EARLIER)
            .not_valid_after(now + _CA_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_use("key_cert_sign"), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(self._constraints(), critical=True)
            .sign(key, hashes.SHA256())
        )
        return key, certificate

    def left(self) -> bytes:
        """Key and certificate as PEM, for the program that takes this one's place in its process, and for nobody else."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + self.certificate

    @property
    def certificate(self) -> bytes:
        """PEM: what the agent's programs are to trust."""
        return self._certificate.public_bytes(Encoding.PEM)

    def context(self, destination: Destination) -> ssl.SSLContext:
        """The server's side of TLS, as `destination`'s host. Raises Misuse for a host that is not of this CA."""
        if (destination.host, destination.literal) not in self._hosts:
            raise Misuse("a certificate for a host that is not granted")
        now = self._now()
        with self._lock:
            until, context = self._made.get(destination.host, (now, None))
            if context is None or now >= until:
                context = self._context(destination, now)
                self._made[destination.host] = now + _LEAF_LIFE / 2, context
            return context

    def _context(self, destination: Destination, now: dt.datetime) -> ssl.SSLContext:
        """No tickets, so nothing is resumed and there is no early data (RFC 8446 2.3)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
        context.num_tickets = 0
        context.set_alpn_protocols([H2, H1])
        key = self._leaf_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with contextlib.closing(os.fdopen(os.memfd_create("leaf", os.MFD_CLOEXEC), "wb")) as memory:  # OpenSSL's API takes files
            memory.write(key + self._leaf(destination, now).public_bytes(Encoding.PEM))
            memory.flush()
            context.load_cert_chain(f"/proc/self/fd/{memory.fileno()}")
        return context

    def _leaf(self, destination: Destination, now: dt.datetime) -> x509.Certificate:
        nobody = x509.Name([])
        return (
            x509.CertificateBuilder(self._name, nobody, self._leaf_key.public_key(), x509.random_serial_number())
            .not_valid_before(now - _EARLIER)
            .not_valid_after(now + _LEAF_LIFE)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_use("digital_signature"), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([_general(destination)]), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._leaf_key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _constraints(self) -> x509.NameConstraints:
        named = sorted(host for host, literal in self._hosts if literal is None)
        literals = sorted((literal for _, literal in self._hosts if literal is not None), key=str)
        permitted: list[x509.GeneralName] = [*map(x509.DNSName, named), *(x509.IPAddress(ip_network(one)) for one in literals)]
        excluded = None if literals else list(_NO_ADDRESS)
        return x509.NameConstraints(permitted or None, excluded)

    def _now(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self._clock.now(), dt.UTC)


def _parsed(taken: bytes) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    try:
        key, certificate = load_pem_private_key(taken, password=None), x509.load_pem_x509_certificate(taken)
    except (ValueError, TypeError):
        raise FormatError("certificate authority", "a key and its certificate in PEM", "other bytes") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise FormatError("certificate authority", "the certificate of its key", "another")
    return key, certificate


def _general(destination: Destination) -> x509.GeneralName:
    return x509.DNSName(destination.host) if destination.literal is None else x509.IPAddress(destination.literal)


def _use(what: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{use: use == what for use in _USES})
