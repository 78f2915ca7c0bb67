"""The base of all errors that a user can mend."""


class ProtodlError(Exception):
    """A mistake in the input, or work that cannot go on.

    The message is complete: it names the file, the key and the value that are wrong, and says what
    to do. A stage and the command `protodl` print it and end with status 1. Misuse of a function
    by a programmer is a ValueError instead.
    """
