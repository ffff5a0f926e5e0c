"""Time one cost estimate, and one of llm-analysis in the same run: `python -m
benchmarks.cost_time`.

Both estimate a model of about 1B parameters. Ours gives parameters, FLOPs, cache, pages, memory,
what fits, and the ceiling of a hybrid. llm-analysis (https://github.com/cli99/llm-analysis) gives
an inference summary of OPT-1.3B at 2,000 tokens (its maximum is 2,048). Each time is the shortest
of many, so that a busy machine hardly affects the ratio. Without llm-analysis, the script prints
only our own times.
"""

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from hybrid_core.design import presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.speed import hardware
from hybrid_core.speed.cost import Cost, cost
from hybrid_core.workload import Workload

REPEATS = 300


def least_ms(call: Callable[[Any], Any], arguments: Iterable[Any]) -> float:
    """Milliseconds of the shortest call, one per argument. Making arguments is not timed."""
    least_s = float("inf")
    for argument in arguments:
        started = time.perf_counter()
        call(argument)
        least_s = min(least_s, time.perf_counter() - started)
    return 1e3 * least_s


def other_tool() -> Callable[[], Any] | None:
    """A call that computes one summary from configs already read; None without llm-analysis."""
    try:
        from llm_analysis import analysis, config
    except ImportError:
        return None
    logging.disable(logging.WARNING)
    model = config.get_model_config_by_name("facebook_opt-1.3b")
    gpu = config.get_gpu_config_by_name("a100-sxm-40gb")

    def summary() -> Any:
        return analysis.LLMAnalysis(model, gpu).inference(seq_len=2000, num_tokens_to_generate=1)

    return summary


def main() -> None:
    spec = presets.get(presets.FIRST).spec
    device = hardware.get("h100_sxm")
    workload = Workload()

    def costed(design: ArchSpec) -> Cost:
        return cost(design, workload, device)

    known_ms = least_ms(costed, [spec] * REPEATS)
    # Sums are cached per design, and a new name makes a new design.
    new_ms = least_ms(costed, (spec.replace(name=f"new {n}") for n in range(REPEATS)))
    print(f"{spec.name}: {known_ms:.2f} ms, a design not seen before {new_ms:.2f} ms")
    summary = other_tool()
    if summary is None:
        print("llm-analysis is not installed: no ratio")
        return
    its_ms = least_ms(lambda _: summary(), range(REPEATS))
    print(f"llm-analysis: {its_ms:.2f} ms; ours takes {known_ms / its_ms:.2f} times as long")


if __name__ == "__main__":
    main()
