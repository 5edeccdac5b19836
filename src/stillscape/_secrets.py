"""What must never be written down: passwords, keys and tokens, as they stand in addresses."""

import re

HIDDEN = "***"
# user:password@ of an address; what stands behind its question mark, as in a signed link; tokens by their known heads.
_USER = re.compile(r"(?<=://)(?:[^\s/@'\"]+|[^\s/@:'\"]+:[^\s@'\"]*)@")
_QUERY = re.compile(r"(://[^\s?'\"]+\?)[^\s'\"]+")
_TOKEN = re.compile(r"\b(?:(?:hf_|gh[pousr]_|glpat-|sk-)[A-Za-z0-9]{20,}|(?:AKIA|ASIA)[A-Z0-9]{16})\b")


def redacted(text: str) -> str:
    """Return a text without the secrets of its addresses.

    Example:
        >>> redacted("sftp://me:pass@host/runs and https://host/a?token=1")
        'sftp://***@host/runs and https://host/a?***'
    """
    text = _QUERY.sub(rf"\1{HIDDEN}", _USER.sub(f"{HIDDEN}@", text))
    return _TOKEN.sub(HIDDEN, text)


def holds_secret(text: str) -> bool:
    """Tell whether a text holds the password, signature or token of an address."""
    return redacted(text) != text
