"""Addresses in messages, without their secrets."""

import re


def redacted(message: str) -> str:
    """A URI, or a message that quotes some, without passwords and tokens."""
    message = re.sub(r"(://[^:/\s]*):[^/\s]+@", r"\1:***@", message)
    return re.sub(r"([?&][^=&\s]*(?:password|token|secret)[^=&\s]*=)[^&\s]+", r"\1***", message, flags=re.IGNORECASE)
