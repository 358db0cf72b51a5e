"""The exception for errors that a user can fix."""


class UserError(ValueError):
    """An error in the user's data, settings or call. The command line prints only its message and exits with code 2."""
