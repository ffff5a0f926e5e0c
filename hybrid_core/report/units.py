"""Numbers with their units, as people read them."""

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
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1023.5 or unit == "GiB":
            return (
                f"{value:,.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.3g} {unit}"
            )
        value /= 1024
    raise AssertionError


def flops(value: float) -> str:
    """FLOPs with an SI prefix: 6.1e9 -> `6.10 GFLOPs`; from 1e18 on with an exponent."""
    if value >= 1e18:
        return f"{value:.2e} FLOPs"
    for unit in ("", "K", "M", "G", "T"):
        if value < 1000 or unit == "T":
            return f"{value:,.3g} {unit}FLOPs" if value < 1000 else f"{value:,.0f} {unit}FLOPs"
        value /= 1000
    raise AssertionError


def rate(tokens_per_s: float) -> str:
    """Tokens per second with three or four digits."""
    if tokens_per_s >= 9999.5:
        return f"{count(tokens_per_s)} tokens/s"
    return (
        f"{tokens_per_s:,.0f} tokens/s" if tokens_per_s >= 100 else f"{tokens_per_s:.3g} tokens/s"
    )


def joules(value: float) -> str:
    """`12.3 J`, `4.56 mJ`."""
    return f"{value:,.3g} J" if value >= 1 else f"{value * 1e3:.3g} mJ"


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
    return f"{tokens // 1024}K" if tokens % 1024 == 0 else f"{tokens:,}"
