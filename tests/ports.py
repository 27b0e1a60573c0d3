"""Ports for commands that must be told one before they open it."""

import random
import socket


def free() -> int:
    """A port that nobody listens on, of those below what systems hand out for connections: nobody's connection takes it
    before the command does."""
    draw = random.SystemRandom()
    while True:
        port = draw.randrange(10_000, 32_000)
        with socket.socket() as s:
            try:
                s.bind(("", port))
            except OSError:
                continue
            return port
