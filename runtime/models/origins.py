"""Owns what is known of an endpoint from its address alone: which hosts are never asked, and what some hosts do differently."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

_METADATA_NAMES = frozenset(
    {"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
)
_METADATA = frozenset(
    map(ip_address, ("168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"))
)
"""Where clouds keep credentials outside the link-local range."""
_NAT64 = int(IPv6Address("64:ff9b::"))


def forbidden(host: str) -> str | None:
    """Why this host is never asked; None for all others. Names are not looked up."""
    name = host.rstrip(".").lower()
    if name in _METADATA_NAMES:
        return "metadata services are refused: cloud machines keep their credentials there"
    address = _address(name)
    if address is None:
        return None
    if address.is_link_local or address in _METADATA:
        return "link-local addresses and metadata services are refused: cloud machines keep their credentials there"
    if address.is_multicast or address.is_unspecified:
        return "an address that stands for no single machine"
    return None


def is_openai(endpoint: str) -> bool:
    """Whether a base URL is OpenAI's own, for which OPENAI_API_KEY was made."""
    url = urlsplit(endpoint)
    host = (url.hostname or "").rstrip(".")
    return url.scheme == "https" and (host == "api.openai.com" or host.endswith(".api.openai.com"))


def limits_each_model(endpoint: str) -> bool:
    """Whether limits on haste are counted there for each model apart, and not for all models of a key together."""
    host = (urlsplit(endpoint).hostname or "").rstrip(".")
    return is_openai(endpoint) or host == "api.anthropic.com" or host.endswith(".googleapis.com")


def counts_thoughts_in_total_only(endpoint: str, model: str) -> bool:
    """Whether a usage from there may leave thoughts out of `completion_tokens` and count them in `total_tokens` alone."""
    host = urlsplit(endpoint).hostname or ""
    return host.endswith(".googleapis.com") or "gemini" in model.lower()


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """The address a host is written as, in any form a resolver takes; None for a name."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        try:
            # Resolvers also take 2852039166, 0xa9fea9fe and 169.254.43518.
            return IPv4Address(socket.inet_aton(host))
        except (OSError, UnicodeError):
            return None
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and int(address) >> 32 == _NAT64 >> 32:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        return inner or address
    return address
