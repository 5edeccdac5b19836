"""What can go wrong, by whose doing: the caller's input, a theorem's premise, a file, or the run itself."""

from stillscape._secrets import redacted


class StillscapeError(Exception):
    """Anything that Stillscape raises on purpose; its message holds no password, signature or token of an address."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(redacted(each) if isinstance(each, str) else each for each in arguments))


class InputError(StillscapeError, ValueError):
    """An argument, a file or a folder that can't be used; the message says what is accepted and what to do."""


class AssumptionError(StillscapeError):
    """A premise of a theorem fails; the message carries the measured value."""


class SelfCheckError(StillscapeError):
    """A computation contradicts itself or a finite difference; the message names likely causes."""


class RecordError(StillscapeError):
    """A stored record is damaged or of a schema that this version can't read."""


class RunError(StillscapeError):
    """A run could not be finished; what was done is kept."""


class MemoryShortError(RunError):
    """Memory ran out with one image at a time; elsewhere, or beside fewer others, the same may go through."""


class NumericalWarning(UserWarning):
    """A number was computed, but with less precision than asked for."""
