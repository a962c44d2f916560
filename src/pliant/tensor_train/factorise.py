"""Whole numbers as products of nearly equal factors."""

from __future__ import annotations

from functools import lru_cache

_SLACK = 1.5  # of the sum that equal factors would have; 2 * 29 is left as it is, 1 * 59 becomes 6 * 10


@lru_cache(maxsize=4096)
def nearly_equal(n: int, count: int) -> tuple[int, ...]:
    """Return nearly equal factors, ascending, of n or, if n has none (a prime, for one), of the next number that has.

    >>> nearly_equal(1024, 5), nearly_equal(784, 2), nearly_equal(59, 2), nearly_equal(3, 2)
    ((4, 4, 4, 4, 4), (28, 28), (6, 10), (1, 3))

    Args:
        n: at least 1.
        count: of factors, at least 1.
    """
    padded = n
    while True:
        factors = _flattest(padded, count)
        if sum(factors) <= _SLACK * count * padded ** (1 / count):
            return factors
        padded += 1


def _flattest(n: int, count: int) -> tuple[int, ...]:
    """Return the ascending factors of n, exactly, with the least sum."""
    if count == 1:
        return (n,)
    smallest = [first for first in range(1, int(n ** (1 / count)) + 2) if n % first == 0]
    return min((tuple(sorted((first, *_flattest(n // first, count - 1)))) for first in smallest), key=sum)
