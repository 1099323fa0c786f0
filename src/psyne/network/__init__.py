"""Channels over TCP. The frames are described in docs/network.md."""
