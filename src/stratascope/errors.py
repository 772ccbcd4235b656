"""Every error that stratascope raises on purpose.

```
StratascopeError
├── SiteNotFoundError   (also KeyError)      a site that the model, the forward or the store lacks
├── CaptureError        (also RuntimeError)  a forward that could not be captured as asked
├── StoreError          (also ValueError)    a store that cannot be written or read as asked
├── DataError           (also ValueError)    data that the model or the store cannot take
├── UsageError          (also ValueError)    a command line that names what cannot be loaded
└── MissingExtraError   (also ImportError)   an optional package that is not installed
```

Each is also the built-in error that a caller would expect, so catching it needs no import of this.
Messages say what must be what, what came instead, and what to do.
"""


class StratascopeError(Exception):
    """The base of all errors of this package."""


class SiteNotFoundError(StratascopeError, KeyError):
    """A name that matches no site; the message lists near names."""

    # KeyError shows the repr of its argument, which turns a sentence into a quoted string.
    __str__ = Exception.__str__


class CaptureError(StratascopeError, RuntimeError):
    """A forward pass that could not be captured as asked."""


class StoreError(StratascopeError, ValueError):
    """A store that cannot be written or read as asked."""


class DataError(StratascopeError, ValueError):
    """Data that the model or the store cannot take."""


class UsageError(StratascopeError, ValueError):
    """A command line that names something which cannot be loaded."""


class MissingExtraError(StratascopeError, ImportError):
    """An optional package that is needed here and is not installed."""


def first_line(error: Exception) -> str:
    """Give the first line of an error, or its kind where it says nothing, to be quoted.

    >>> first_line(ValueError("wrong.")), first_line(ValueError())
    ('wrong', 'ValueError')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
