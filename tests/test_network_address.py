"""Addresses of channels on other hosts: what they mean, and what is wrong with one that is none."""

from typing import Any

import pytest

import psyne
from psyne.address import tcp_place


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("tcp://127.0.0.1:9999", ("127.0.0.1", 9999, "")),
        ("tcp://localhost:0", ("localhost", 0, "")),
        ("tcp://robot-1.local:65535/camera", ("robot-1.local", 65535, "camera")),
        ("tcp://0.0.0.0:1/left camera", ("0.0.0.0", 1, "left camera")),
        ("tcp://[::1]:9999", ("::1", 9999, "")),
        ("tcp://[::]:9999/camera", ("::", 9999, "camera")),
        ("tcp://[fe80::1%eth0]:9999/c", ("fe80::1%eth0", 9999, "c")),
        ("tcp://my_host:9999/a:b", ("my_host", 9999, "a:b")),
    ],
)
def test_an_address_is_a_host_a_port_and_perhaps_a_channel(address: str, place: tuple[str, int, str]):
    assert tcp_place(address) == place


@pytest.mark.parametrize("address", ["ipc://camera", "tcp:/host:1", "TCP://host:1", "host:1", "", "udp://host:1"])
def test_another_scheme_is_refused_with_the_two_forms(address: str):
    with pytest.raises(psyne.InvalidArgument, match=r"tcp://host:port or tcp://host:port/channel"):
        tcp_place(address)


@pytest.mark.parametrize(
    "place",
    ["host", "host:", ":9999", "", "host:x", "host:-1", "host:65536", "host:999999", "host: 1", "host:١", "::1"],
)
def test_a_host_without_a_port_is_refused_with_the_range_of_ports(place: str):
    for address in (f"tcp://{place}", f"tcp://{place}/camera"):
        if place == "::1":
            with pytest.raises(psyne.InvalidArgument, match="brackets"):
                tcp_place(address)
        else:
            with pytest.raises(psyne.InvalidArgument, match="port from 0 to 65535"):
                tcp_place(address)


@pytest.mark.parametrize("host", ["a b", "user@host", "*", "ho\0st", "höst", "a?b", "x" * 254, "[host", "a\nb"])
def test_a_host_of_other_characters_is_refused(host: str):
    with pytest.raises(psyne.InvalidArgument, match="bad host"):
        tcp_place(f"tcp://{host}:9999")


@pytest.mark.parametrize("host", ["[::1", "[]", "[127.0.0.1]", "[::g]", "[1:2]"])
def test_an_ipv6_address_is_checked(host: str):
    with pytest.raises(psyne.InvalidArgument, match=r"IPv6|bad host"):
        tcp_place(f"tcp://{host}:9999")


def test_an_ipv6_address_without_brackets_is_told_of_them():
    with pytest.raises(psyne.InvalidArgument, match=r"brackets, as in tcp://\[::1\]:9999"):
        tcp_place("tcp://fe80::1:9999")


@pytest.mark.parametrize("name", ["", "a/b", "a\0b", ".", "..", ".hidden", "x" * 129, "ä" * 65, "a.0123456789abcdef"])
def test_a_channel_has_the_names_that_a_local_one_has(name: str):
    with pytest.raises(psyne.InvalidArgument, match="bad channel name"):
        tcp_place(f"tcp://host:9999/{name}")


@pytest.mark.parametrize("address", [None, 5, b"tcp://host:9999", ("host", 9999)])
def test_an_address_is_a_string(address: Any):
    with pytest.raises(psyne.InvalidArgument, match="string"):
        tcp_place(address)
