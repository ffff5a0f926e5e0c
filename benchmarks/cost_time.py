"""Time of one cost estimate, beside llm-analysis in the same run: `python -m benchmarks.cost_time`.

Both estimate a model of about 1B parameters. Ours gives parameters, FLOPs, cache, pages, memory,
what fits, and the ceiling of a hybrid. llm-analysis (https://github.com/cli99/llm-analysis) gives
an inference summary of OPT-1.3B at 2,000 tokens, of the 2,048 that it takes. Each time is the
shortest of many, so that a busy machine changes the ratio little. Without llm-analysis the script
prints our own times alone.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from hybrid_core.costs.model import model_costs
from hybrid_core.design import presets
from hybrid_core.speed import hardware
from hybrid_core.speed.cost import cost
from hybrid_core.workload import Workload

REPEATS = 300


def least_ms(call: Callable[[], Any], before: Callable[[], Any] = lambda: None) -> float:
    """The shortest of REPEATS calls, each after an untimed call of `before`."""
    least_s = float("inf")
    for _ in range(REPEATS):
        before()
        started = time.perf_counter()
        call()
        least_s = min(least_s, time.perf_counter() - started)
    return 1e3 * least_s


def other_tool() -> Callable[[], Any] | None:
    """A call that makes one summary, with the configurations read; None without llm-analysis."""
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
    known_ms = least_ms(lambda: cost(spec, workload, device))
    new_ms = least_ms(lambda: cost(spec, workload, device), before=model_costs.cache_clear)
    print(f"{spec.name}: {known_ms:.2f} ms, with an empty cache of sums {new_ms:.2f} ms")
    summary = other_tool()
    if summary is None:
        print("llm-analysis is not installed: no ratio")
        return
    its_ms = least_ms(summary)
    print(f"llm-analysis: {its_ms:.2f} ms; ours takes {known_ms / its_ms:.2f} times as long")


if __name__ == "__main__":
    main()
