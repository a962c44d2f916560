"""Make damaged and hostile inputs out of whole ones."""

import random
import struct

NUMBERS = (0, 1, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)


def mutate(seed: bytes, others: list[bytes], words: list[bytes], rng: random.Random) -> bytes:
    """Change an input in one to eight places; now and then by a part of another input or by a word of the format."""
    data = bytearray(seed)
    left = rng.choice((1, 1, 2, 4, 8))
    while left > 0 or data == seed:
        rng.choice(CHANGES)(data, others, words, rng)
        left -= 1
    return bytes(data)


def _place(data, rng):
    return rng.randrange(len(data) + 1)


def _span(data, rng):
    first = _place(data, rng)
    return first, min(len(data), first + rng.choice((1, 1, 2, 4, 16, 256)))


def _flip(data, _others, _words, rng):
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _overwrite(data, _others, _words, rng):
    if data:
        data[rng.randrange(len(data))] = rng.randrange(256)


def _number(data, _others, _words, rng):
    size = rng.choice((1, 2, 4, 8))
    value = rng.choice(NUMBERS) % 2 ** (8 * size)
    packed = value.to_bytes(size, rng.choice(("big", "little")))
    first = _place(data, rng)
    data[first : first + size] = packed


def _remove(data, _others, _words, rng):
    first, last = _span(data, rng)
    del data[first:last]


def _repeat(data, _others, _words, rng):
    first, last = _span(data, rng)
    data[first:first] = data[first:last] * rng.choice((1, 2, 50))


def _cut_off(data, _others, _words, rng):
    del data[_place(data, rng) :]


def _splice(data, others, _words, rng):
    other = rng.choice(others)
    first, last = _span(other, rng)
    place = _place(data, rng)
    data[place : place + rng.choice((0, last - first))] = other[first:last]


def _word(data, _others, words, rng):
    if words:
        word, place = rng.choice(words), _place(data, rng)
        data[place : place + rng.choice((0, len(word)))] = word * rng.choice((1, 1, 1, 3))


def _decimal(data, _others, _words, rng):
    """Replace a run of digits by another number."""
    digits = [index for index, byte in enumerate(data) if 48 <= byte <= 57]
    if digits:
        first = last = rng.choice(digits)
        while last < len(data) and 48 <= data[last] <= 57:
            last += 1
        data[first:last] = rng.choice(
            (b"-1", b"0", b"1e999", b"1.5", b"NaN", b"9" * 30, str(rng.choice(NUMBERS)).encode())
        )


def _float(data, _others, _words, rng):
    first = _place(data, rng)
    data[first : first + 8] = struct.pack("<d", rng.choice((0.0, -1.0, 1e308, float("inf"), float("nan"))))


CHANGES = (_flip, _overwrite, _number, _remove, _repeat, _cut_off, _splice, _word, _word, _decimal, _float)
