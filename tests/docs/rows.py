"""The first column of a table in a page."""


def first_cells(page: str, heading: str) -> list[str]:
    r"""Return the first cells of the table whose first column has this heading, without backticks.

    Example:
        >>> first_cells("| a | b |\n|---|---|\n| `x` | 1 |\n| `y` | 2 |\n\nend", "a")
        ['x', 'y']
    """
    rows = page.partition(f"| {heading} |")[2].split("\n\n")[0].splitlines()[2:]
    return [row.split("|")[1].strip().strip("`") for row in rows]
