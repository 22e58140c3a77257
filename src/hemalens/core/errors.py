"""The errors that hemalens raises, in one tree.

    HemalensError
    └── UserError              the user's input or options were wrong; the command line exits with 2
        ├── SourceError        a source cannot be opened or understood
        ├── DecodeError        one picture cannot be decoded (it is listed, the run goes on)
        │   └── TooLargeError  ... because it has more pixels, or a longer side, than is unpacked
        ├── ConfigError        a recipe, key or option has a wrong value
        ├── ArtifactError      an output exists already, or an input artifact is incomplete or damaged
        ├── TrainingError      training cannot go on (a loss that is not finite)
        ├── RequestError       a request to the server is refused; it knows its HTTP status
        └── MissingExtraError  an optional dependency is needed and not installed

Every message has the same form: ``<what> <value>: <rule>; <next step>``.
"""

from typing import Any

__all__ = [
    "ArtifactError",
    "ConfigError",
    "DecodeError",
    "HemalensError",
    "MissingExtraError",
    "RequestError",
    "SourceError",
    "TooLargeError",
    "TrainingError",
    "UserError",
]


class HemalensError(Exception):
    """Base of all errors raised on purpose."""


class UserError(HemalensError):
    """An input or option was wrong, and the user can mend it.

    Args:
        what: the thing and its value, for example ``"labels (3, 2)"``.
        rule: the rule it breaks.
        step: what to do next; may be empty where nothing can be done.

    >>> str(UserError("ratios 83:13", "must be three numbers", "write 83:13:4"))
    'ratios 83:13: must be three numbers; write 83:13:4'
    """

    def __init__(self, what: str, rule: str, step: str = "") -> None:
        self.what, self.rule, self.step = what, rule, step
        super().__init__(_printable(f"{what}: {rule}; {step}" if step else f"{what}: {rule}"))

    def __reduce__(self) -> tuple[type["UserError"], tuple[str, str, str]]:
        """Pickle by the three parts, so that errors cross process boundaries whole."""
        return type(self), (self.what, self.rule, self.step)


class SourceError(UserError):
    """A source of pictures cannot be opened or understood."""


class DecodeError(UserError):
    """One picture cannot be decoded under the stated rules."""


class TooLargeError(DecodeError):
    """One picture has more pixels, or a longer side, than is unpacked."""


class ConfigError(UserError):
    """A configuration key, recipe or option has a wrong value."""


class ArtifactError(UserError):
    """An output already exists, or an artifact to read is incomplete or damaged."""


class TrainingError(UserError):
    """Training cannot go on with these options and data."""


class RequestError(UserError):
    """A request is refused, with an HTTP status (413, ...); ``retry`` says after how many seconds to ask again."""

    def __init__(self, status: int, what: str, rule: str, step: str = "", *, retry: int | None = None) -> None:
        self.status, self.retry = status, retry
        super().__init__(what, rule, step)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with the status."""
        return _request_error, (self.status, self.what, self.rule, self.step, self.retry)


def _request_error(status: int, what: str, rule: str, step: str, retry: int | None) -> RequestError:
    return RequestError(status, what, rule, step, retry=retry)


class MissingExtraError(UserError):
    """An optional dependency is needed for this and is not installed."""

    def __init__(self, what: str, extra: str, step: str = "") -> None:
        self.extra = extra
        super().__init__(
            what, f"needs the optional extra '{extra}'", step or f"install it with: pip install 'hemalens[{extra}]'"
        )

    def __reduce__(self) -> tuple[type["MissingExtraError"], tuple[str, str, str]]:
        """Pickle by what was passed in."""
        return type(self), (self.what, self.extra, self.step)


def _printable(text: str) -> str:
    """Escape line ends, terminal controls and the like, which file names may hold: a message is one plain line."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)
