"""The one exception for what a user can mend: its message is all they need to see."""


class UserError(ValueError):
    """A mistake in the user's data, configuration or call; the command line prints it alone and exits with code 2."""
