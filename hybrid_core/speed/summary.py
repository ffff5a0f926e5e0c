"""Every cost of a design and a workload in one record: what the command line prints and the pages
show."""

from typing import Any

from hybrid_core.costs.engine import engine_view
from hybrid_core.costs.fit import fit
from hybrid_core.costs.memory import one_shot_activations
from hybrid_core.costs.model import model_costs
from hybrid_core.costs.weights import stored_as
from hybrid_core.design.built import not_built
from hybrid_core.design.spec import ArchSpec
from hybrid_core.mixers.mla import LatentAttentionMixer
from hybrid_core.speed.hardware import Hardware
from hybrid_core.speed.roofline import predict
from hybrid_core.terms import total
from hybrid_core.workload import Workload

SCHEMA = 1


def summary(spec: ArchSpec, workload: Workload, hardware: Hardware) -> dict[str, Any]:
    """A JSON-ready record. Cache bytes are per sequence, memory bytes for the whole batch; FLOPs
    per token unless named otherwise.

    `paper`: Table 1 and Appendix C; `exact`: what the modules do; `paged`: in vLLM's equal pages
    (costs/engine.py), and beside it the largest batch and context that fit in either view;
    `predicted`: the roofline ceiling of `hardware`. `not_built`: why our modules do not compute the
    design, so that its figures are costed only; null where they do."""
    costs, context, workload = model_costs(spec), workload.context_len, workload.of(spec)
    train = {
        convention: costs.train_flops_per_token(context, convention)
        for convention in ("paper", "exact")
    }
    engine = engine_view(spec, workload, hardware.usable_bytes)
    verdict = fit(spec, workload, hardware, engine)
    used = verdict.used
    speed = predict(spec, workload, hardware)
    return {
        "schema": SCHEMA,
        "name": spec.name,
        "pattern": spec.pattern,
        "workload": _asked(spec, workload),
        "hardware": hardware.key,
        "params": costs.params()._asdict(),
        "train_flops": {
            key: {"per_token": float(value), "per_sample": float(value * context)}
            for key, value in train.items()
        },
        "prefill_flops": int(costs.forward_flops(workload.prefill_len, logits=1)),
        "decode_flops_per_token": int(costs.decode_flops(context)),
        "cache_bytes": {
            "paper": int(costs.cache_bytes(context, "paper")),
            "exact": int(costs.cache_bytes(context, "exact", workload)),
            "paged": engine.paged_bytes,
        },
        "engine": {
            "page_bytes": engine.pages.page_bytes,
            "block_tokens": engine.pages.block_tokens,
            "ideal": engine.ideal._asdict(),
            "paged": engine.paged._asdict(),
        },
        "latent_attention": _latent_attention(spec),
        "not_built": not_built(spec),
        "memory_bytes": {key: int(value) for key, value in used._asdict().items()}
        | {
            "total": int(used.total),
            "one_shot_activations": int(
                one_shot_activations(costs, workload, workload.prefill_len)
            ),
        },
        "fit": verdict.record(),
        "predicted": {
            "basis": hardware.basis,
            "prefill_tokens_per_s": float(speed.prefill_tokens_per_s),
            "decode_tokens_per_s": float(speed.decode_tokens_per_s),
            "decode_step_s": float(speed.decode_step_s),
        },
        "layers": layers(spec, workload),
    }


def _asked(spec: ArchSpec, workload: Workload) -> dict[str, Any]:
    """The workload with what it left open filled in."""
    decided = {
        "prompt_len": workload.prefill_len,
        "state_dtype": workload.scan_dtype,
        "weight_dtype": stored_as(spec, workload),
    }
    return workload.model_dump() | decided


def _latent_attention(spec: ArchSpec) -> dict[str, str] | None:
    """How the FLOPs of latent attention are counted (costs/sized.py), or None where there is
    none."""
    if not any(isinstance(layer.mixer, LatentAttentionMixer) for layer in spec.stack):
        return None
    return {"prefill": "expanded keys and values", "decode": "absorbed: over the latent"}


def layers(spec: ArchSpec, workload: Workload) -> list[dict[str, Any]]:
    """One record per layer: kind, parameters, exact forward FLOPs of one sequence of `context_len`
    tokens, exact cache bytes."""
    context = workload.context_len
    record: dict[int, dict[str, Any]] = {}
    rows = []
    for index, layer in enumerate(model_costs(spec).layers, start=1):
        if id(layer) not in record:
            record[id(layer)] = {
                "kind": layer.kind.name,
                "params": layer.params(),
                "flops": int(total(layer.forward_flops(context))),
                "cache_bytes": int(layer.cache_bytes(context, workload)),
            }
        rows.append({"layer": index} | record[id(layer)])
    return rows
