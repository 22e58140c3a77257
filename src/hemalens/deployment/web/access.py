"""Who may ask: the server's names, a token, requests per client and minute. Text and headers to yes or no.

Standard library only.
"""

import hmac
import ipaddress
import re
import ssl
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hemalens.core.errors import ConfigError

__all__ = ["Access", "Names", "Rate", "is_loopback", "read_tls", "read_token", "same_token", "split_address"]

# RFC 9110, 7.2: a name or an address, an IPv6 address in brackets, and a port; nothing before, between or after.
_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[0-9A-Za-z_.-]{1,253}))(?::(?P<port>[0-9]{1,5}))?")
_TOKEN = re.compile(r"[0-9A-Za-z._~+/-]{16,1024}=*")  # RFC 6750, 2.1, and long enough not to be guessed
_CLIENTS = 65_536
_MAKE_TOKEN = "python3 -c 'import secrets; print(secrets.token_urlsafe(32))' > FILE"  # noqa: S105 - how to make one


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where the server is reached, and by whom.

    Attributes:
        host: address or name to listen on; 127.0.0.1 is this machine alone.
        port: to listen on; any that is free where 0.
        allow_hosts: names under which the server may be asked for, beside addresses, localhost and ``host``.
        token_file: file that holds the token that requests must bring; None for no token.
        tls_cert: file with the certificate and those above it, PEM; needs ``tls_key``.
        tls_key: file with its key, PEM, without a password.
        requests_per_minute: of one client; None for no limit.
        metrics_address: HOST:PORT where ``/metrics`` is answered in place of the main address.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    allow_hosts: tuple[str, ...] = ()
    token_file: str | Path | None = None
    tls_cert: str | Path | None = None
    tls_key: str | Path | None = None
    requests_per_minute: int | None = None
    metrics_address: str | None = None


class Names:
    """The names under which a server may be asked for."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset({"localhost", *(name.lower() for name in names)})

    def __contains__(self, host: str) -> bool:
        """Tell whether a Host header names this server: an address cannot be rebound to another, a name can.

        >>> [host in Names([]) for host in ("localhost:8000", "[::1]:80", "[::1]evil.com", "evil.com")]
        [True, True, False, False]
        """
        found = _HOST.fullmatch(host)
        if found is None or int(found["port"] or 0) > 65_535:
            return False
        try:
            if found["v6"]:
                ipaddress.IPv6Address(found["v6"])
                return True
            if found["name"].lower() in self._names:
                return True
            ipaddress.IPv4Address(found["name"])
        except ValueError:
            return False
        return True


class Rate:
    """Requests per client and minute: a bucket for each that fills up as time goes on.

    Args:
        per_minute: requests at once, and again over each minute.
    """

    def __init__(self, per_minute: int) -> None:
        self._most = per_minute
        self._clients: OrderedDict[str, tuple[float, float]] = (
            OrderedDict()
        )  # requests left, when; the longest ago first

    def wait(self, client: str, now: float | None = None) -> int:
        """Count a request; return 0 where it is let in, or the seconds until one will be."""
        now = time.monotonic() if now is None else now
        client = _household(client)
        left, before = self._clients.pop(client, (float(self._most), now))
        left = min(left + (now - before) * self._most / 60, float(self._most))
        allowed = left >= 1
        self._clients[client] = (left - 1 if allowed else left, now)
        if len(self._clients) > _CLIENTS:
            self._clients.popitem(last=False)
        return 0 if allowed else max(1, -int(-(1 - left) * 60 // self._most))


def _household(client: str) -> str:
    """Return what stands for a client: its address; the first 64 bits of an IPv6 address, of which each has 2**64."""
    try:
        address = ipaddress.IPv6Address(client)
    except ValueError:
        return client
    return str(address.ipv4_mapped or ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))


def same_token(header: bytes, token: str) -> bool:
    """Tell whether an Authorization header brings the token, in a time that says nothing about it."""
    scheme, _, given = header.partition(b" ")
    return hmac.compare_digest(given.strip(), token.encode()) and scheme.lower() == b"bearer"


def read_token(path: str | Path) -> str:
    """Return the token that a file holds; raise ConfigError where it holds none."""
    what, step = f"token file {path}", f"make one: {_MAKE_TOKEN}"
    try:
        text = Path(path).read_bytes()[:4096].decode("ascii", "replace").strip()
    except OSError as error:
        raise ConfigError(what, f"cannot be read ({error.strerror})", step) from error
    if not _TOKEN.fullmatch(text):
        raise ConfigError(what, "must hold one line of 16 or more letters, digits and . _ ~ + / -", step)
    return text


def read_tls(cert: str | Path | None, key: str | Path | None) -> tuple[Path, Path] | None:
    """Return a certificate and its key once they are known to fit; raise ConfigError where they do not."""
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise ConfigError("TLS", "needs a certificate and its key", "give both --tls-cert and --tls-key")
    what = f"certificate {cert} with key {key}"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        rule = f"cannot be used ({getattr(error, 'reason', None) or getattr(error, 'strerror', None) or error})"
        raise ConfigError(what, rule, "give PEM files that belong together, the key without a password") from error
    return Path(cert), Path(key)


def _no_password() -> str:
    raise ValueError("the key has a password")


def split_address(text: str) -> tuple[str, int]:
    """Return the host and the port of HOST:PORT; raise ConfigError where it is none."""
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65_535):
        raise ConfigError(f"metrics address {text!r:.80}", "must be HOST:PORT", "write 127.0.0.1:9100")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(address: str) -> bool:
    """Tell whether an address can be reached from this machine alone."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
