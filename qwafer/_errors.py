"""The exceptions that qwafer raises itself; each message says what to change."""

import re

_BREAK = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
"""What `str.splitlines` takes for the end of a line."""

LONGEST = 2000
"""Characters of a message."""


class InputError(ValueError):
    """Input from outside (a file, an option, a command line) that cannot be used.

    Verbs print the message, one sentence, on stderr and exit with status 2. Where it quotes what it was given, line
    breaks become their escape sequences, and beyond `LONGEST` characters it loses its middle.
    """

    def __init__(self, message: str = "") -> None:
        message = _BREAK.sub(lambda found: found[0].encode("unicode_escape").decode(), message)
        middle = "" if len(message) <= LONGEST else " ... "
        super().__init__(message[: LONGEST // 2] + middle + message[LONGEST // 2 :][-LONGEST // 2 :])


class CapabilityError(RuntimeError):
    """Something that the installed stack (device, compiler, versions) cannot do; the message says what to use
    instead.
    """


class PairingError(InputError):
    """Runs that cannot be compared in pairs: a digest that must agree between arms differs."""


class RecordError(InputError):
    """A stored file that is not what was written: damaged, edited, copied over another, or without its logits."""
