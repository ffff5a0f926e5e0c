"""Numbers with their units, as people read them."""

from collections.abc import Callable

UNITS = ("", "K", "M", "B", "T")


def count(value: float) -> str:
    """1235814400 -> `1.24B`."""
    for unit in UNITS[:-1]:
        if abs(value) < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:,.3g}{UNITS[-1]}"


def n_bytes(value: float) -> str:
    """Bytes in KiB, MiB or GiB: 268435456 -> `256 MiB`."""
    if abs(value) < 1023.5:
        return f"{value:,.0f} B"
    value /= 1024
    unit = "KiB"
    for larger in ("MiB", "GiB"):
        if abs(value) >= 1023.5:
            value /= 1024
            unit = larger
    if value >= 99.95:
        return f"{value:,.0f} {unit}"
    return f"{value:.3g} {unit}"


def flops(value: float) -> str:
    """FLOPs with an SI prefix: 6.1e9 -> `6.10 GFLOPs`; from 1e18 on with an exponent."""
    if value >= 1e18:
        return f"{value:.2e} FLOPs"
    for unit in ("", "K", "M", "G"):
        if value < 1000:
            return f"{value:,.3g} {unit}FLOPs"
        value /= 1000
    if value < 1000:
        return f"{value:,.3g} TFLOPs"
    return f"{value:,.0f} TFLOPs"


def rate(tokens_per_s: float) -> str:
    """Tokens per second with three or four digits."""
    if tokens_per_s >= 9999.5:
        return f"{count(tokens_per_s)} tokens/s"
    if tokens_per_s >= 100:
        return f"{tokens_per_s:,.0f} tokens/s"
    return f"{tokens_per_s:.3g} tokens/s"


def joules(value: float) -> str:
    """`12.3 J`, `4.56 mJ`."""
    if value >= 1:
        return f"{value:,.3g} J"
    return f"{value * 1e3:.3g} mJ"


def seconds(value: float) -> str:
    """`12 ms`, `3.4 s`, `2 min 5 s`."""
    if value < 1:
        return f"{value * 1e3:.3g} ms"
    if value < 60:
        return f"{value:.3g} s"
    return f"{int(value // 60)} min {value % 60:.0f} s"


def length(tokens: int) -> str:
    """A context length: 8192 -> `8K`."""
    if tokens >= 2**20 and tokens % 1024 == 0:
        return f"{tokens / 2**20:.3g}M"
    if tokens % 1024 == 0:
        return f"{tokens // 1024}K"
    return f"{tokens:,}"


def _whole_joules(value: float) -> str:
    return f"{value:,.0f} J"


def _joules_a_token(value: float) -> str:
    return f"{joules(value)} per token"


def _watts(value: float) -> str:
    return f"{value:,.0f} W"


def _percent(value: float) -> str:
    return f"{value:.0%}"


def _copied(value: float) -> str:
    return f"{value:.0%} copied in full"


def _nats_per_byte(value: float) -> str:
    return f"{value:.3f} nats per byte"


# Unit of a number -> how it is written with its unit.
WRITTEN: dict[str, Callable[[float], str]] = {
    "count": count,
    "bytes": n_bytes,
    "FLOPs": flops,
    "tokens/s": rate,
    "J": _whole_joules,
    "J/token": _joules_a_token,
    "W": _watts,
    "share": _percent,
    "share copied": _copied,
    "nats/byte": _nats_per_byte,
}
