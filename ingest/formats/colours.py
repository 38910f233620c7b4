"""Colours as a reader of a document tells them apart."""

from tinycss2.color4 import parse_color

Colour = tuple[float, float, float, float]  # red, green, blue and opacity, each 0 to 1
WHITE: Colour = (1.0, 1.0, 1.0, 1.0)
# Of one channel: less of a difference between letters and what lies behind them no eye finds.
_FAINT = 0.12


def colour_of(value: str) -> Colour | None:
    """A colour as CSS writes it (name, hex, rgb, hsl and so on); None for what is none or needs a browser to tell."""
    try:
        found = parse_color(value)
        if found is None or isinstance(found, str):
            return None
        red, green, blue = (float(part or 0.0) for part in found.to("srgb").coordinates)
        return red, green, blue, float(found.alpha)
    except (NotImplementedError, ValueError, TypeError):
        return None


def hex_colour(value: str) -> Colour | None:
    """A colour as office formats write it: `RRGGBB`; None for `auto` and nonsense."""
    return colour_of(f"#{value}") if len(value) == 6 else None


def over(colour: Colour, ground: Colour) -> Colour:
    """What is seen where `colour` lies on `ground`."""
    alpha = colour[3]
    red, green, blue = (alpha * a + (1 - alpha) * b for a, b in zip(colour[:3], ground[:3], strict=True))
    return red, green, blue, 1.0


def alike(colour: Colour, ground: Colour) -> bool:
    """Whether letters of `colour` cannot be told from the `ground` behind them."""
    seen = over(colour, ground)
    return max(abs(a - b) for a, b in zip(seen[:3], ground[:3], strict=True)) < _FAINT
