"""Numbers in sentences."""

from __future__ import annotations


def counted(n: int, one: str, many: str | None = None) -> str:
    """`1 image`, `2,000 images`: `many` is the plural where it is not `one` with an s."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def are(n: int) -> str:
    """`is` of one, `are` of another number."""
    return "is" if n == 1 else "are"


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
