"""Text of somebody else on a terminal: what would move the cursor or turn the line is spelled."""


def printable(text: str) -> str:
    r"""Return one line of text with its control characters written out.

    Example:
        >>> printable("red: \x1b[31m, and a new line: \n")
        'red: \\x1b[31m, and a new line: \\n'
    """
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def printable_lines(text: str) -> str:
    """Return the same of several lines, which stay lines."""
    return "\n".join(map(printable, text.split("\n")))
