"""
Authentication headers: which schemes one line holds, and what each says.

Source: RFC 9110 sections 5.6 and 11. A line is read from left to right in one pass and
no pattern looks back: 12,000 backslashes cost what 12,000 letters cost. Where a line
stops making sense, what stood before counts and the rest is left alone, so that no text
inside a broken value becomes a parameter or a scheme.
"""

import re
from dataclasses import dataclass
from typing import Final

from agentpay.errors import MalformedMessage, MessageTooLarge

LINE_CHARS_MAX: Final = 64 * 1024

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++")
_GAP = re.compile(r"[ \t]++")
_COMMAS = re.compile(r"[ \t,]*+")
_END = re.compile(r"[ \t]*+(?:,[ \t,]*+|\Z)")
_EQUALS = re.compile(r"[ \t]*+=[ \t]*+")
_TOKEN68 = re.compile(r"([0-9A-Za-z\-._~+/]++=*+)(?=[ \t]*+(?:,|\Z))")
_QUOTED = re.compile(
    r'"((?:[^"\\\x00-\x08\x0a-\x1f\x7f]++|\\[^\x00-\x08\x0a-\x1f\x7f])*+)"'
)
_ESCAPED = re.compile(r"((?:\\u[0-9A-Fa-f]{4})++)|\\(.)")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_NOT_PLAIN = re.compile(r"[^\t\x20-\x7e]")


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemeValue:
    """One scheme of a line, with either one bare value or parameters, or nothing."""

    scheme: str
    """In lower case."""
    bare: str | None
    """RFC 9110's token68: what follows `Bearer` or `Payment` in a request."""
    params: tuple[tuple[str, str], ...]
    """Names in lower case, values without quotes; a name may stand twice."""


def read_schemes(line: str) -> tuple[SchemeValue, ...]:
    """
    Read every scheme that a `WWW-Authenticate` or `Authorization` line holds.

    Raises:
        MessageTooLarge: Longer than 64 KiB.
    """
    if len(line) > LINE_CHARS_MAX:
        raise MessageTooLarge(
            f"an authentication header has {len(line)} characters,"
            f" we read {LINE_CHARS_MAX}"
        )
    found: list[tuple[str, str | None, list[tuple[str, str]]]] = []
    end = _COMMAS.match(line)
    while end is not None and (name := _TOKEN.match(line, end.end())):
        equals = _EQUALS.match(line, name.end())
        if equals is not None:
            value = _value(line, equals.end())
            if value is None or not found:
                break
            text, position = value
            found[-1][2].append((name[0].lower(), text))
        else:
            position = name.end()
            bare: str | None = None
            gap = _GAP.match(line, position)
            if gap is not None and (token := _TOKEN68.match(line, gap.end())):
                bare, position = token[1], token.end()
            found.append((name[0].lower(), bare, []))
            if gap is not None and bare is None and _is_param(line, gap.end()):
                end = gap
                continue
        end = _END.match(line, position)
    return tuple(
        SchemeValue(scheme=scheme, bare=bare, params=tuple(params))
        for scheme, bare, params in found
    )


def _is_param(line: str, position: int) -> bool:
    name = _TOKEN.match(line, position)
    return name is not None and _EQUALS.match(line, name.end()) is not None


def _value(line: str, position: int) -> tuple[str, int] | None:
    """A token or quoted string at a place, and where it ends."""
    if token := _TOKEN.match(line, position):
        return token[0], token.end()
    if quoted := _QUOTED.match(line, position):
        return _ESCAPED.sub(_plain, quoted[1]), quoted.end()
    return None


def _plain(escaped: re.Match[str]) -> str:
    r"""What a backslash hides. `\u2615` is how mppx writes what is not Latin-1."""
    if escaped[1] is None:
        return escaped[2]
    units = bytes.fromhex(escaped[1].replace("\\u", ""))
    return units.decode("utf-16-be", errors="replace")


def quote(text: str, *, name: str) -> str:
    """
    Write a value as a quoted string of plain ASCII.

    Raises:
        MalformedMessage: It has control characters, or is not Unicode.
    """
    if _CONTROL.search(text):
        raise MalformedMessage(
            f"{name} has control characters, which no header carries"
        )
    try:
        escaped = text.replace("\\", r"\\").replace('"', r"\"")
        return f'"{_NOT_PLAIN.sub(_escape, escaped)}"'
    except UnicodeEncodeError as error:
        raise MalformedMessage(f"{name} is not Unicode") from error


def _escape(character: re.Match[str]) -> str:
    units = character[0].encode("utf-16-be").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))
