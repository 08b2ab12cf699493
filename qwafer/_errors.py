"""The exceptions that qwafer raises itself; each message says what to change."""


class InputError(ValueError):
    """Input from outside (a file, an option, a command line) that cannot be used.

    Verbs print the message, one sentence, on stderr and exit with status 2.
    """


class CapabilityError(RuntimeError):
    """Something that the installed stack (device, compiler, versions) cannot do; the message says what to use
    instead.
    """


class PairingError(InputError):
    """Runs that cannot be compared in pairs: a digest that must agree between arms differs."""


class RecordError(InputError):
    """A stored file that is not what was written: damaged, edited, copied over another, or without its logits."""
