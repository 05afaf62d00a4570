"""Faults planted in source text: what every harness that replaces text asks of the text."""


def planted(source: str, right: str, wrong: str, *, times: int | None = 1) -> str:
    """Return the source with a fault in it.

    Args:
        source: a kernel, a page, a script.
        right: what stands there.
        wrong: what is put in its place.
        times: how often it stands there; None for any number but 0.

    Example:
        >>> planted("y = a + b", "+", "-")
        'y = a - b'
        >>> planted("y = a + b", "*", "-")
        Traceback (most recent call last):
        ...
        AssertionError: expected '*' once in the source, found it 0 times
    """
    count = source.count(right)
    if count == 0 or times not in (None, count):
        often = "once" if times == 1 else f"{times or 'some'} times"
        raise AssertionError(f"expected {right!r} {often} in the source, found it {count} times")
    return source.replace(right, wrong)
