"""Put what a program made between two marks of a page."""


def fill(begin: str, end: str, made: str, page: str) -> str:
    """Return a page with what was made between its two marks.

    Args:
        begin: The first mark, with all that stands before what was made.
        end: The second mark.
        made: What goes between them.
        page: The page's text, with each mark once.
    """
    before, rest = page.split(begin)
    return before + begin + made + end + rest.split(end)[1]
