"""What a design costs, as text: `cost`, `import`, `models`, `calibrate`."""

from collections import Counter
from collections.abc import Iterator, Sequence

from hybrid_core.costs.model import Params
from hybrid_core.interop.published import Model
from hybrid_core.report import units
from hybrid_core.report.numbers import fits_words
from hybrid_core.report.text.tables import table
from hybrid_core.speed.cost import Cost, EnginePages, ParamCounts, PredictedSpeed
from hybrid_core.speed.hardware import Hardware

Line = tuple[str, str, str]  # name, value, convention


def cost_table(
    found: Cost,
    kernel_shapes: Sequence[str] = (),
    tokens: float | None = None,
) -> str:
    """What `cost` prints: every cost as a line of name, value and convention.

    `kernel_shapes`: what the kernels do not support in the design; `tokens`: training tokens, for
    the total FLOPs."""
    work = found.workload
    kinds = Counter(layer.kind for layer in found.layers)
    made_of = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    lines = [f"{found.name}: {made_of}", found.pattern]
    if found.not_built:
        lines.append(f"costed, not built: {found.not_built}")
    lines += [f"kernel shape: {line}" for line in kernel_shapes]
    lines.append(
        f"batch {work.batch_size}, context {work.context_len:,}, "
        f"prompt {work.prompt_len:,}, weights {work.weight_dtype}"
    )
    rows = [
        *_parameters(found.params),
        *_flops(found, tokens),
        *_cache(found),
        *_engine(found),
        *_memory(found),
        *_speed(found.predicted),
    ]
    return "\n".join(lines) + "\n\n" + table(rows)


def _parameters(params: ParamCounts) -> Iterator[Line]:
    yield "parameters", units.count(params.total), "exact"
    yield "  without embedding", units.count(params.non_embedding), "exact"
    yield "  active per token", units.count(params.active), "exact"


def _flops(found: Cost, tokens: float | None) -> Iterator[Line]:
    train = found.train_flops
    by_convention = {"paper": train.paper, "exact": train.exact}
    for convention, flops in by_convention.items():
        name = f"training, per token ({convention})"
        yield name, units.flops(flops.per_token), convention
    if tokens is not None:
        for convention, flops in by_convention.items():
            name = f"training, total ({convention})"
            yield name, units.flops(flops.per_token * tokens), convention
    yield "prefill, per sequence", units.flops(found.prefill_flops), "exact"
    name = f"decode, per token{_absorbed(found)}"
    yield name, units.flops(found.decode_flops_per_token), "exact"


def _absorbed(found: Cost) -> str:
    """How latent attention is computed. Empty for designs without it."""
    if found.latent_attention is None:
        return ""
    return " (latent attention: absorbed; prefill: expanded)"


def _cache(found: Cost) -> Iterator[Line]:
    cache = found.cache_bytes
    work = found.workload
    name = f"cache per sequence, {work.kv_cache_dtype}, state {work.state_dtype}"
    paged = f"paged: {_pages(found.engine)}"
    yield "cache per sequence, bf16", units.n_bytes(cache.paper), "paper"
    yield name, units.n_bytes(cache.exact), "exact"
    yield "cache per sequence in vLLM's pages", units.n_bytes(cache.paged), paged


def _pages(engine: EnginePages) -> str:
    """What a page holds."""
    pages = f"pages of {units.n_bytes(engine.page_bytes)}"
    if not engine.block_tokens:
        return pages
    return f"{pages}, {engine.block_tokens:,} tokens of attention"


def _engine(found: Cost) -> Iterator[Line]:
    """What fits next to the weights, with an ideal cache and in pages."""
    work = found.workload
    views = {"ideal": found.engine.ideal, "paged": found.engine.paged}
    for view, room in views.items():
        name = f"most sequences of {work.context_len:,} tokens"
        yield name, f"{room.batch_size:,}", view
    for view, room in views.items():
        name = f"longest context at batch {work.batch_size}"
        yield name, f"{room.context_len:,}", view


def _memory(found: Cost) -> Iterator[Line]:
    memory = found.memory_bytes
    work = found.workload
    weights = f"memory: weights in {work.weight_dtype}"
    activations = f"memory: activations, {work.max_batched_tokens:,} tokens at a time"
    at_once = "a prefill of the batch at once: activations"
    fit = found.fit
    used = f"exact: {units.n_bytes(fit.usable)} of its memory is usable"
    yield weights, units.n_bytes(memory.weights), "exact"
    yield "memory: cache, whole batch", units.n_bytes(memory.cache), "exact"
    yield activations, units.n_bytes(memory.activations), "exact"
    yield "memory: total", units.n_bytes(memory.total), "exact"
    yield f"fits {found.hardware}", fits_words(fit.fits, fit.fits_engine), used
    yield at_once, units.n_bytes(memory.one_shot_activations), "exact"


def _speed(speed: PredictedSpeed) -> Iterator[Line]:
    basis = speed.basis
    yield f"prefill, {basis}", units.rate(speed.prefill_tokens_per_s), "predicted"
    yield f"decode, {basis}", units.rate(speed.decode_tokens_per_s), "predicted"


def models_table(models: dict[str, Model]) -> str:
    """Published models: quoted figures next to those computed here."""
    rows: list[tuple[str, ...]] = [
        ("published model", "layers", "parameters", "active", "cache at 8K", "computed", "level")
    ]
    rows += [_model(name, model) for name, model in models.items()]
    return table(rows)


def _model(name: str, model: Model) -> tuple[str, ...]:
    quoted = model.quoted
    kinds = Counter(layer.letter for layer in model.spec.stack)
    differs = []
    for key, value in model.computed.items():
        if value != quoted[key]:
            differs.append(f"{key} {value:,}")
    level = "built"
    if model.not_built:
        level = f"costed ({model.not_built})"
    return (
        name,
        " ".join(f"{n}{letter}" for letter, n in kinds.items()),
        units.count(quoted["total"]),
        units.count(quoted["active"]),
        units.n_bytes(quoted["cache_8k"]),
        ", ".join(differs) or "the same",
        level,
    )


def imported_line(
    name: str,
    params: Params,
    cache: int,
    not_built: str | None,
) -> str:
    """The line that `import` prints in addition to the YAML."""
    level = "built"
    if not_built:
        level = f"costed, not built ({not_built})"
    total = units.count(params.total)
    active = units.count(params.active)
    inner = units.count(params.non_embedding)
    counts = f"{total} parameters, {active} active, {inner} without embedding"
    return f"{name}: {counts}; cache at 8K {units.n_bytes(cache)} (two bytes per element); {level}"


def calibration_table(device: Hardware) -> str:
    """What `calibrate` measured, and the name under which costs and profiles find it."""
    rates = device.rates
    assert rates
    rows = [
        ("dense matrix product", _flops_per_s(device.peak_flops_per_s.fp32)),
        ("memory reads", _bytes_per_s(device.bandwidth_bytes_per_s)),
    ]
    for n_rows, seconds in rates.linear:
        name = f"product with weights, {n_rows} rows"
        rows.append((name, f"{2 * n_rows / seconds / 1e9:,.1f} GFLOP/s"))
    rows += [
        ("causal attention", _flops_per_s(rates.attention_flops_per_s)),
        ("windowed attention", _flops_per_s(rates.window_flops_per_s)),
        ("SSD scan", _flops_per_s(rates.scan_flops_per_s)),
        ("keys and values in decode", _bytes_per_s(rates.kv_bytes_per_s)),
        ("scan state in decode", _bytes_per_s(rates.state_bytes_per_s)),
        ("elementwise work", _bytes_per_s(rates.elementwise_bytes_per_s)),
    ]
    for kind, seconds in rates.call_s.items():
        rows.append((f"calls of a {kind} layer", units.seconds(seconds)))
    kept = f"kept as {device.key}: use it with --hardware, or choose it on the Compose page"
    return f"{device.name}\n{kept}\n\n{table(rows)}"


def _flops_per_s(rate: float) -> str:
    return f"{rate / 1e9:,.0f} GFLOP/s"


def _bytes_per_s(rate: float) -> str:
    return f"{rate / 1e9:,.1f} GB/s"
