"""Errors that a user can meet. Each says what was expected, what came, the likely cause and what to change."""


class CsrError(Exception):
    """Base of every error that is the user's to mend; the command line prints it without a traceback."""


class SettingsError(CsrError):
    """One or more settings cannot be used; the message lists all of them."""


class InputError(CsrError):
    """A file, picture or model the run needs is missing or unusable."""


class OutOfMemoryError(CsrError):
    """The GPU or the machine ran out of memory; a retry with a smaller batch can help."""
