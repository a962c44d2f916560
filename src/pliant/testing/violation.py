"""What a broken law raises."""

from __future__ import annotations


class LawViolation(AssertionError):  # noqa: N818  (an assertion that failed, named for what it is)
    """A law does not hold; the message names the law, the region, what was found and what is allowed."""


def require(holds: bool, law: str, subject: object, found: object, allowed: object) -> None:
    """Raise `LawViolation` unless the law holds.

    Args:
        holds: whether the law holds.
        law: the law in words.
        subject: the region and shapes it was tried on.
        found: the number or state found.
        allowed: the number or state allowed.

    Raises:
        LawViolation: if `holds` is false.
    """
    if not holds:
        raise LawViolation(f"{law}: found {found}, allowed {allowed}; {subject}")
