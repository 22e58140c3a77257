"""Numbers and words as every page, table and message writes them.

Standard library only.
"""

import re
from collections.abc import Iterable, Mapping

__all__ = ["ABSENT", "duration", "interval", "listed", "markdown", "number", "percent", "spelled", "thousands"]

ABSENT = "\N{EN DASH}"
"""What stands in a table where nothing was measured."""

_NO_BREAK = "\N{NO-BREAK SPACE}"
_SPELLED = {"ig": "immature granulocyte (ig)"}
_THIN = "\N{NARROW NO-BREAK SPACE}"


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share in [0, 1] as a percentage; a dash where it is None.

    >>> percent(0.9862).replace("\N{NO-BREAK SPACE}", " ")
    '98.6 %'
    """
    return ABSENT if share is None else f"{100 * share:.{digits}f}{_NO_BREAK}%"


def interval(score: object, digits: int = 1) -> str:
    """Write a score in [0, 1] with its interval; ``score`` has value, low and high (fields or keys), or is None.

    >>> interval({"value": 0.9862, "low": 0.98, "high": 0.991}).replace("\N{NO-BREAK SPACE}", " ")
    '98.6 % [98.0, 99.1]'
    """
    if score is None:
        return ABSENT
    value, low, high = (score[k] if isinstance(score, Mapping) else getattr(score, k) for k in ("value", "low", "high"))
    return f"{percent(value, digits)} [{100 * low:.{digits}f},{_NO_BREAK}{100 * high:.{digits}f}]"


def thousands(count: int | None) -> str:
    """Write a whole number with a thin space between groups of three digits, from five digits on.

    >>> thousands(13759).replace("\N{NARROW NO-BREAK SPACE}", " "), thousands(1600)
    ('13 759', '1600')
    """
    if count is None:
        return ABSENT
    return f"{count:,}".replace(",", _THIN) if abs(count) >= 10_000 else str(count)


def number(value: float | None, digits: int = 3) -> str:
    """Write a number with so many significant digits, without a trailing power of ten where it can be helped.

    >>> number(0.04567), number(12), number(0.00001)
    ('0.0457', '12', '1e-05')
    """
    return ABSENT if value is None else f"{value:.{digits}g}"


def duration(seconds: float | None) -> str:
    """Write a time span in its two largest units.

    >>> [duration(s).replace("\N{NO-BREAK SPACE}", " ") for s in (0.84, 42, 125, 3725)]
    ['0.8 s', '42 s', '2 min 5 s', '1 h 2 min']
    """
    if seconds is None:
        return ABSENT
    if seconds < 9.95:
        return f"{seconds:.1f}{_NO_BREAK}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        parts = [(hours, "h"), (minutes, "min")]
    elif minutes:
        parts = [(minutes, "min"), (rest, "s")]
    else:
        parts = [(rest, "s")]
    return _NO_BREAK.join(f"{amount}{_NO_BREAK}{unit}" for amount, unit in parts if amount)


def spelled(label: str) -> str:
    """Write a class as it is written where it first occurs: an abbreviation is spelled out.

    >>> spelled("ig"), spelled("monocyte")
    ('immature granulocyte (ig)', 'monocyte')
    """
    return _SPELLED.get(label, label)


def listed(items: Iterable[object]) -> str:
    """Write items as a list in a sentence.

    >>> listed(["a"]), listed([1, 2, 4])
    ('a', '1, 2 and 4')
    """
    words = [str(item) for item in items]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def markdown(text: object) -> str:
    r"""Escape text for a line of Markdown, so that a class called ``a|b`` or ``<b>`` stays what it is.

    >>> markdown("a|b_c\n<i>")
    'a\\|b\\_c \\<i\\>'
    """
    return re.sub(r"([\\`*_{}\[\]<>#|$~&])", r"\\\1", " ".join(str(text).split()))
