"""What can go wrong, by whose doing: the caller's input, a theorem's premise, a file, or the run itself."""


class StillscapeError(Exception):
    """Anything that Stillscape raises on purpose."""


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


class NumericalWarning(UserWarning):
    """A number was computed, but with less precision than asked for."""
