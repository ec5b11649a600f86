"""New inputs from old ones, from a seeded generator."""

from __future__ import annotations

import random
from collections.abc import Sequence

LENGTH_MAX = 400


def fresh(rng: random.Random) -> bytes:
    """An input from nothing."""
    return rng.randbytes(rng.randint(1, 200))


def mutate(raw: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """A few changes of an input: flipped, inserted, removed, repeated, or taken from another."""
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[at % len(data)] = rng.randrange(256)
            case 2:
                data[at:at] = rng.randbytes(rng.randint(1, 8))
            case 3:
                del data[at : at + rng.randint(1, 16)]
            case 4:
                data[at:at] = data[at : at + rng.randint(1, 32)]
            case _:
                other = rng.choice(others)
                start = rng.randrange(len(other) + 1)
                data[at:at] = other[start : start + rng.randint(1, 64)]
    return bytes(data[:LENGTH_MAX]) or b"\0"
