"""Text of data and models made harmless to show: nothing in it acts, nothing is endless. Pure."""

CUT = " […] "
LONGEST = 1000  # characters of a sentence; what is longer was not written by us
# Persian, Indic scripts and emoji cannot be read without the two joiners.
_KEPT = "\n\u200c\u200d"


def clean(text: str) -> str:
    r"""Without anything that a terminal acts upon or that changes the order of what is read.

    Such characters are written out, ``\x1b``; line ends stay, other spaces become a plain one.
    """
    return "".join(c if c.isprintable() or c in _KEPT else _write_out(c) for c in text)


def shorten(text: str, length: int) -> str:
    """At most ``length`` characters and a mark in place of the middle: answers come at the end."""
    if len(text) <= length:
        return text
    end = length // 2
    return f"{text[: length - end].rstrip()}{CUT}{text[-end:].lstrip()}"


def on_one_line(text: str, length: int = LONGEST) -> str:
    """`clean` and `shorten`, without line ends."""
    return shorten(" ".join(clean(text).split()), length)


def _write_out(character: str) -> str:
    return " " if character.isspace() else character.encode("unicode_escape").decode()
