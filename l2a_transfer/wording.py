"""Numbers and errors in sentences."""

from __future__ import annotations


def counted(n: int, one: str, many: str | None = None) -> str:
    """A number with its noun; `many` is an irregular plural.

    Examples
    --------
    >>> counted(1, "image"), counted(2000, "image"), counted(3, "class", "classes")
    ('1 image', '2,000 images', '3 classes')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def with_minus(text: str) -> str:
    """A number or an interval as people read it: U+2212 for the minus sign. Files for programs keep the hyphen.

    `cli/output.echo` prints a hyphen again where the terminal's encoding has no U+2212.

    Examples
    --------
    >>> with_minus("-1.7 [-7.8, +4.2]")
    '−1.7 [−7.8, +4.2]'
    """
    return text.replace("-", "−")


def are(n: int) -> str:
    """`is` for one, `are` for any other number."""
    return "is" if n == 1 else "are"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if there is no message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
