"""Keeps credentials out of what people share: records, model cards, logs."""

import re
from collections.abc import Sequence

from raysys.config import RunConfig, keys

_SECRET = r"(?:token|secret|passw|pwd|signature|credential|api[_-]?key|access[_-]?key|account[_-]?key)"
_MASKED = (
    # s3://KEY:SECRET@bucket; a secret of AWS may hold a slash
    (re.compile(r"(?<=://)[^\s/@:'\"]*:[^\s@'\"]+(?=@)"), "***"),
    # https://TOKEN@host; an address of Azure, abfs://container@account, holds no secret
    (re.compile(r"(?<=http://)[^\s/@:'\"]+(?=@)|(?<=https://)[^\s/@:'\"]+(?=@)", re.IGNORECASE), "***"),
    # ?token=...&X-Amz-Signature=..., and the "sig" of Azure
    (re.compile(rf"(?<=[?&])([\w.%-]*{_SECRET}[\w.%-]*|sig)=[^\s&'\"]+", re.IGNORECASE), r"\1=***"),
    # --password=..., --my-token ..., HF_TOKEN=...
    (re.compile(rf"((?:^|(?<=[\s'\"]))--?[\w.-]*{_SECRET}[\w.-]*)(=|\s+)(?!-)[^\s'\"]+", re.IGNORECASE), r"\1\2***"),
    (re.compile(rf"((?:^|(?<=[\s'\"]))\w*{_SECRET}\w*)=[^\s'\"]+", re.IGNORECASE), r"\1=***"),
)


def mask(text: str) -> str:
    """Returns a text with *** in the place of keys and passwords in URLs, options and variables."""
    for pattern, replacement in _MASKED:
        text = pattern.sub(replacement, text)
    return text


def mask_words(words: Sequence[str]) -> list[str]:
    """Returns the words of a command line, masked; the word after `--token` is one that is."""
    out, secret = [], False
    for word in words:
        option = word.startswith("-") and "=" not in word
        out.append("***" if secret and not option else mask(word))
        secret = option and re.search(_SECRET, word, re.IGNORECASE) is not None
    return out


def refuse_credentials(config: RunConfig) -> None:
    """Raises a ValueError if a value is a URL with credentials: config.json keeps every value and travels with checkpoints."""
    for key, value in keys(config).items():
        for text in value if isinstance(value, tuple | list | dict) else (value,):
            if "://" in str(text) and (masked := mask(str(text))) != str(text):
                raise ValueError(
                    f"{key}={masked} holds credentials, which would be written into config.json and every checkpoint: leave "
                    "them out of the URL, and give them by the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                    "AWS_PROFILE) or by the role of the machine"
                )
