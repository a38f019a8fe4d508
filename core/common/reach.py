"""Whether a cluster answers at an address, before its library tries for minutes to connect."""

from __future__ import annotations

import socket

from core.common.errors import UserError


def refuse_unreachable_ray(option: str, address: str) -> None:
    """Raise UserError if nothing listens at an address of Ray. option: that names it.  address: HOST:PORT, or
    ray://HOST:PORT; one without a port, such as auto, is not looked at."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        said = f"{option} {address}: no Ray cluster answers ({getattr(error, 'strerror', None) or error})"
        raise UserError([said, "start one with ray start --head, which prints its address"]) from None
