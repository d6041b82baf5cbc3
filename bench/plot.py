"""A plot for people: one bar a variant, drawn as SVG without any library."""

from collections.abc import Sequence
from typing import Final
from xml.sax.saxutils import escape

from bench.measure import Sample, spread
from bench.rows import (
    CHANNELS,
    CHARGES,
    CLIENT_MANY,
    CLIENT_ONE,
    FREE,
    FREE_TWO_WORKERS,
    LIBRARIES,
    MANY,
    MPPX,
    PYMPP,
    THEIRS,
    TRANSFERS,
)

_CASES: Final = (MANY, CHANNELS, CLIENT_ONE, CLIENT_MANY, TRANSFERS, CHARGES)
_WIDTH, _LEFT, _ROW = 860, 240, 18
_LONGEST: Final = _WIDTH - _LEFT - 90
_COLOURS: Final = {
    **dict.fromkeys((FREE, FREE_TWO_WORKERS), "#b8c0cc"),
    **{f"{FREE}, {library}": "#b8c0cc" for library in LIBRARIES},
    **dict.fromkeys((THEIRS, PYMPP, MPPX), "#d98a5b"),
}
_OURS: Final = "#2f6fb5"


def svg(samples: Sequence[Sample]) -> str:
    """Answered requests a second; each case has a scale of its own."""
    parts: list[str] = []
    y = 20
    for case in _CASES:
        variants = dict.fromkeys(s.variant for s in samples if s.case == case)
        found = {v: spread(samples, case, v, "rate") for v in variants}
        rates = {v: rate.median for v, rate in found.items() if rate is not None}
        if not rates:
            continue
        parts.append(_text(8, y, case, weight="bold"))
        y += _ROW
        for variant, rate in rates.items():
            length = max(1, round(rate / max(rates.values()) * _LONGEST))
            parts += [
                _text(_LEFT - 8, y, variant, anchor="end"),
                _bar(y, length, _COLOURS.get(variant, _OURS)),
                _text(_LEFT + length + 6, y, f"{rate:,.0f}/s"),
            ]
            y += _ROW
        y += _ROW // 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}"'
        ' font-family="sans-serif" font-size="12">'
        f'<rect width="{_WIDTH}" height="{y}" fill="#ffffff"/>'
        + "".join(parts)
        + "</svg>\n"
    )


def _bar(y: int, length: int, colour: str) -> str:
    place = f'x="{_LEFT}" y="{y - 11}" width="{length}" height="13"'
    return f'<rect {place} fill="{colour}"/>'


def _text(
    x: int, y: int, text: str, *, anchor: str = "start", weight: str = "normal"
) -> str:
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-weight="{weight}"'
        f' fill="#222222">{escape(text)}</text>'
    )
