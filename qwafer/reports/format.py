"""How a number, an interval or a spread reads: the one place that formats them."""

from typing import Any

MISSING = "–"


def format_number(value: Any, digits: int = 4) -> str:
    """Return a number in short (integers with thousands separators), a dash where it is undefined."""
    if value is None or value != value:
        return MISSING
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}g}"


def format_p(value: float | None) -> str:
    """Return a p value to three digits, down to 0.0001."""
    return "<0.0001" if value is not None and value < 1e-4 else format_number(value, 3)


def format_difference(value: float | None) -> str:
    """Return a signed number to four decimals."""
    return MISSING if value is None or value != value else f"{value:+.4f}"


def format_spread(mean: float | None, sd: float | None) -> str:
    """Return "mean ± sd" to four decimals, without the sd where there is none."""
    if mean is None or mean != mean:
        return MISSING
    return f"{mean:.4f}" if sd is None or sd != sd else f"{mean:.4f} ± {sd:.4f}"


def format_interval(low: float | None, high: float | None, *, signed: bool = True) -> str:
    """Return "low to high" to four decimals."""
    if low is None or high is None or low != low or high != high:
        return MISSING
    return f"{low:+.4f} to {high:+.4f}" if signed else f"{low:.4f} to {high:.4f}"


def format_range(low: float | None, high: float | None, *, signed: bool = False) -> str:
    """Return "[low, high]" to four decimals."""
    if low is None or high is None or low != low or high != high:
        return MISSING
    return f"[{low:+.4f}, {high:+.4f}]" if signed else f"[{low:.4f}, {high:.4f}]"


def format_estimate(estimate: float, low: float, high: float, *, signed: bool = False, marked: bool = False) -> str:
    """Return "estimate [low, high]" to four decimals, with a dagger where it is marked as degenerate."""
    interval = format_range(low, high, signed=signed)
    if interval == MISSING or estimate != estimate:
        return MISSING
    return f"{estimate:{'+' if signed else ''}.4f} {interval}{' †' if marked else ''}"


def format_seconds(value: float | None) -> str:
    """Return seconds to two decimals."""
    return MISSING if value is None else f"{value:.2f} s"


def format_milliseconds(*values: float) -> str:
    """Return milliseconds to three digits: "0.05 ms", or several as "0.05 / 0.06 / 0.1 ms"."""
    return f"{' / '.join(f'{value:.3g}' for value in values)} ms"


def format_rate(value: float) -> str:
    """Return a number per second."""
    return f"{value:,.0f} /s"


def format_bytes(value: float | None) -> str:
    """Return bytes in MiB."""
    return MISSING if value is None else f"{value / 2**20:,.0f} MiB"
