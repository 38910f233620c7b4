"""Passwords, keys and tokens in a text.

Which tokens of which service look how is what `detect-secrets` knows. It reads source code, where a value stands in
quotes; here are the forms that people use in prose, and tokens that it does not know yet.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

from detect_secrets.plugins.artifactory import ArtifactoryDetector
from detect_secrets.plugins.aws import AWSKeyDetector
from detect_secrets.plugins.azure_storage_key import AzureStorageKeyDetector
from detect_secrets.plugins.base import RegexBasedDetector
from detect_secrets.plugins.basic_auth import BasicAuthDetector
from detect_secrets.plugins.discord import DiscordBotTokenDetector
from detect_secrets.plugins.github_token import GitHubTokenDetector
from detect_secrets.plugins.gitlab_token import GitLabTokenDetector
from detect_secrets.plugins.jwt import JwtTokenDetector
from detect_secrets.plugins.mailchimp import MailchimpDetector
from detect_secrets.plugins.npm import NpmDetector
from detect_secrets.plugins.openai import OpenAIDetector
from detect_secrets.plugins.private_key import PrivateKeyDetector
from detect_secrets.plugins.pypi_token import PypiTokenDetector
from detect_secrets.plugins.sendgrid import SendGridDetector
from detect_secrets.plugins.slack import SlackDetector
from detect_secrets.plugins.square_oauth import SquareOAuthDetector
from detect_secrets.plugins.stripe import StripeDetector
from detect_secrets.plugins.telegram_token import TelegramBotTokenDetector
from detect_secrets.plugins.twilio import TwilioKeyDetector

from training.finding import Finding

_DETECTORS: tuple[type[RegexBasedDetector], ...] = (
    ArtifactoryDetector,
    AWSKeyDetector,
    AzureStorageKeyDetector,
    BasicAuthDetector,
    DiscordBotTokenDetector,
    GitHubTokenDetector,
    GitLabTokenDetector,
    JwtTokenDetector,
    MailchimpDetector,
    NpmDetector,
    OpenAIDetector,
    PrivateKeyDetector,
    PypiTokenDetector,
    SendGridDetector,
    SlackDetector,
    SquareOAuthDetector,
    StripeDetector,
    TelegramBotTokenDetector,
    TwilioKeyDetector,
)
_TOKENS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bgithub_pat_\w{22,}|\bsk-[\w-]{20,}|\b[rs]k_(?:live|test)_\w{16,}"
    r"|\bxapp-[\w-]{10,}|\bxox[a-z]-[\w-]{10,}|hooks\.slack\.com/services/[\w/]{20,}|\bAIza[\w-]{35}|\bya29\.[\w-]{20,}"
    r"|\bhf_[A-Za-z0-9]{30,}|\bdop_v1_[a-f0-9]{64}|\bnpm_[A-Za-z0-9]{36}|\bBearer [\w.~+/-]{16,}=*"
)
_NAME = (
    r"\b\w*(?:password|passwd|passwort|passphrase|passcode|pwd|secret(?:[ _-]?(?:access[ _-]?)?key)?|"
    r"(?:api|access|private|client|auth|encryption|licence|license)[ _-]?(?:key|token|secret)|token|credentials?)"
)
# "password = x", "API key: x" at the end of its line or sentence.
_ASSIGNED = re.compile(
    rf"{_NAME}\s*(?:=|:|:=|=>)\s*[\"'`]?([^\s\"'`,;]{{6,}})[\"'`]?(?=[.,;]?\s*(?:$|\n)|[.,;]\s)", re.IGNORECASE
)
# "the password for the till is x": a value there is no word.
_SAID = re.compile(rf"{_NAME}\b[^.!?\n]{{0,40}}?(?:=|:|\bis|\bto)\s+[\"'`]?([^\s\"'`,;]{{6,}})", re.IGNORECASE)
# Without one of these in a text there is nothing to look for, as in most.
_LONG_RUN = re.compile(r"[\w/+=.-]{12,}|://|PRIVATE KEY")
_WORD = re.compile(r"pass|pwd|secret|key|token|credential", re.IGNORECASE)
_LONG_TOKEN = re.compile(r"(?<![\w/.@-])[A-Za-z0-9+/_-]{24,}={0,2}(?![\w/@-]|\.\w)")
_ENTROPY = 3.9  # bits a character, above which a long token was drawn at random


def find_credentials(text: str) -> Iterator[Finding]:
    """The passwords, keys and tokens of a text."""
    if _LONG_RUN.search(text):
        yield from _tokens(text)
    if _WORD.search(text):
        yield from _passwords(text)


def _tokens(text: str) -> Iterator[Finding]:
    for what, pattern in _patterns():
        for match in pattern.finditer(text):
            yield Finding(reason="secret", what=what, value=match.group().strip())
    for match in _LONG_TOKEN.finditer(text):
        if _random(match.group()):
            yield Finding(reason="secret", what="what looks like a key", value=match.group())


def _passwords(text: str) -> Iterator[Finding]:
    for match in _ASSIGNED.finditer(text):
        yield Finding(reason="secret", what="a password or key", value=match.group(1))
    for match in _SAID.finditer(text):
        if _no_word(match.group(1)):
            yield Finding(reason="secret", what="a password or key", value=match.group(1))


@lru_cache(maxsize=1)
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    known = [(f"a key ({each.secret_type})", pattern) for each in _DETECTORS for pattern in each().denylist]
    return (*known, ("a key or token", _TOKENS))


def _no_word(value: str) -> bool:
    """Letters with figures or signs among them; not a figure with its unit, a date or an address of a page."""
    value = value.rstrip(".!?)")
    if len(value) < 6 or not re.search("[A-Za-z]", value) or value.lower().startswith(("http", "www")):
        return False
    if re.fullmatch(r"[\d.,]+[-\w%]*|[A-Za-z]+(?:[-/'][A-Za-z]+)*(?:\[\d+\])?|[\w.+-]+@[\w.-]+", value):
        return bool(re.fullmatch(r"\d+[A-Za-z]+\d+\w*", value))
    return bool(re.search(r"\d", value) or re.search(r"[!#$%&*^~@]", value))


def _random(token: str) -> bool:
    mixed = all(re.search(kind, token) for kind in ("[a-z]", "[A-Z]", r"\d.*\d"))
    counts = Counter(token).values()
    return mixed and -sum(n / len(token) * math.log2(n / len(token)) for n in counts) > _ENTROPY
