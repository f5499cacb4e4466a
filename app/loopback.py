"""Which addresses are this machine's own."""

import ipaddress


def is_loopback(address: str) -> bool:
    """Whether this is an IP address of loopback; a name is none."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
