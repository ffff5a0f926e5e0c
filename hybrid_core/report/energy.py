"""How a run's energy is said, in one place for every rendering.

Runs that an earlier version stored hold the joules of a whole stretch, in which caches were filled
and as many steps were made as the time allowed. They are shown as that, and compared with nothing.
"""

from typing import Any, NamedTuple

from hybrid_core.report import units


class Said(NamedTuple):
    """One line: what it is, the figure or the reason why there is none, and its convention."""

    name: str
    figure: str
    convention: str


def energy_lines(part: dict[str, Any] | None) -> list[Said]:
    """The lines of a run's `energy` part; none where it has no such part."""
    if part is None:
        return []
    if "rows" not in part:
        return [_whole_stretch(part)]
    if not part["rows"]:
        return [Said("energy", part["note"] or "no stretch was metered", "")]
    return [*(_phase(row) for row in part["rows"]), *_idle(part["idle"])]


def comparable(part: dict[str, Any] | None) -> dict[str, str]:
    """The lines that may stand beside those of another run: equal names are the same phase, batch
    and context."""
    if part is None or "rows" not in part:
        return {}
    return {
        f"{name} ({convention})" if convention else name: figure
        for name, figure, convention in energy_lines(part)
    }


def how_measured(part: dict[str, Any]) -> str:
    """What the figures of a metered run are, in a sentence."""
    return f"{part['meter']}, idle power included, over counted steps alone; within {part['error']:.0%} by the meter's steps"


def _phase(row: dict[str, Any]) -> Said:
    where = (
        f"at {row['context_len']:,} tokens"
        if row["phase"] == "decode"
        else f"of {row['context_len']:,} tokens"
    )
    name = f"energy, {row['phase']} {where}, batch {row['batch_size']}"
    if row["why"]:
        return Said(name, row["why"], "")
    return Said(name, f"{units.joules(row['joules_per_token'])} a token", "measured")


def _idle(idle: dict[str, Any] | None) -> list[Said]:
    if idle is None:
        return []
    if idle["why"]:
        return [Said("idle power", idle["why"], "")]
    return [Said("idle power, included above", f"{idle['watts']:,.0f} W", "measured")]


def _whole_stretch(part: dict[str, Any]) -> Said:
    """An earlier version's figure."""
    joules = part["parts"]["decode"]["joules"]
    if joules is None:
        return Said("energy", part["note"], "")
    return Said(
        "energy of the whole decode stretch, cache filling included: not comparable",
        f"{joules:,.0f} J",
        "measured",
    )
