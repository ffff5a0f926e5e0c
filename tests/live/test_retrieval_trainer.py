"""The trainer: a seed fixes the proxy, training ends when it should, Muon trains what it can."""

import json
import math
import time
from functools import partial

import pytest
import torch

from hybrid_core.design import presets
from hybrid_core.live.modules.model import HybridLM, build
from hybrid_core.live.retrieval import task
from hybrid_core.live.retrieval.evaluate import recalled
from hybrid_core.live.retrieval.options import CPU
from hybrid_core.live.retrieval.probe_tasks import pairs
from hybrid_core.live.retrieval.proxy import proxy
from hybrid_core.live.retrieval.trainer import Optimiser, Trainer, Training
from hybrid_core.mixers.none import NoMixer
from hybrid_core.mixers.registry import MIXERS
from tests.designs import INTRA_COMBINATIONS, MOE, design, intra_design
from tests.live.test_modules import VARIANTS


def trainer(
    model: HybridLM,
    stages: list[task.Stage],
    planned_tokens: int,
    seed: int = 0,
    deadline: float = math.inf,
) -> Trainer:
    """One with 512 tokens a step, whatever the stage."""
    return Trainer(
        model,
        stages,
        lambda length: 512,
        planned_tokens,
        seed,
        deadline,
        lambda training: None,
    )


def trained(
    seed: int,
    stages: list[task.Stage],
    planned_tokens: int,
) -> tuple[HybridLM, Training]:
    """A small hybrid, and how it was trained."""
    small = proxy(design("MA"), 32, 128, task.VOCAB_SIZE)
    model = build(small, seed=seed)
    training = trainer(model, stages, planned_tokens, seed).run()
    return model, training


def all_weights(model: HybridLM) -> torch.Tensor:
    return torch.cat([parameter.flatten() for parameter in model.parameters()])


def test_a_seed_fixes_the_proxy() -> None:
    runs = [trained(seed, task.curriculum(128, 11), 10_000) for seed in (1, 1, 2)]
    one, same, other = (all_weights(model) for model, _ in runs)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    curves = []
    for _, training in runs[:2]:
        untimed = [point.model_copy(update={"seconds": 0.0}) for point in training.curve]
        curves.append(untimed)
    assert curves[0] == curves[1]


# Every parameter that a module can have, by the last words of its name: what multiplies vectors of
# activations, and what does not.
PRODUCTS = """qkv.weight in_proj.weight x_proj.weight dt_proj.weight proj.weight out.weight
    attention_out.weight ssm_out.weight
    linear.weight narrow.weight wide.weight gate_up.weight up.weight down.weight router.weight
    latent.weight"""
NO_PRODUCTS = """embed.weight head.weight meta norm.weight q_norm.weight k_norm.weight
    mixer_norm.weight ffn_norm.weight
    attention_norm.weight ssm_norm.weight dt_norm.weight B_norm.weight C_norm.weight dt_proj.bias
    conv_weight conv_bias A_log D dt_bias
    vectors scalar.attention scalar.ssm"""
STACKS = "ffn.gate_up ffn.up ffn.down"  # of experts: matrices, three axes


def short_name(parameter: str) -> str:
    """The last word of a parameter's name where that says enough, or the last two."""
    words = parameter.split(".")
    if words[-1] in NO_PRODUCTS.split():
        return words[-1]
    return ".".join(words[-2:])


def test_muon_trains_matrices_of_products_and_adam_everything_else() -> None:
    specs = [*VARIANTS.values(), *(intra_design(axes) for axes in INTRA_COMBINATIONS)]
    built = {type(layer.mixer) for spec in specs for layer in spec.stack}
    assert built | {NoMixer} == {kind for kind in MIXERS if kind.entry.module}
    muons: set[str] = set()
    adams: set[str] = set()
    for spec in specs:
        model = build(spec, "meta")
        muon, _ = Optimiser(model).parts
        by_muon = {id(parameter) for parameter in muon.param_groups[0]["params"]}
        for name, parameter in model.named_parameters():
            found = muons if id(parameter) in by_muon else adams
            found.add(short_name(name))
    assert muons == set(PRODUCTS.split())
    assert adams == {*NO_PRODUCTS.split(), *STACKS.split()}


def test_a_solved_task_ends_early_and_says_when_it_was_learnt() -> None:
    def always_the_same(n_tokens: int, generator: torch.Generator) -> task.Sample:
        tokens = torch.full((8, 16), 5)
        answers = torch.arange(16) > 0
        return task.Sample(tokens, answers.expand(8, -1), 15)

    _, training = trained(0, [task.Stage("fives", 16, always_the_same, 1.0)], 200_000)
    assert training.ended == "solved"
    assert training.tokens_to_learn
    assert training.tokens_to_learn < training.tokens < 50_000


def test_compiling_before_training_sees_every_stage_and_changes_nothing() -> None:
    stages = [task.Stage("echo", n, partial(pairs, n // 4), 1.0) for n in (16, 32)]
    model = build(proxy(design("MA", ffn=MOE), 32, 128, 256))
    idle = Trainer(
        model,
        stages,
        lambda length: 64,
        10_000,
        0,
        math.inf,
        lambda training: None,
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = idle.generator.get_state()
    shapes: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda module, inputs: shapes.append(tuple(inputs[0].shape)))
    model.train()
    idle._compile()
    assert shapes == [(4, 15), (2, 31)]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(idle.generator.get_state(), drawn)
    assert len(idle.moe_layers) == 2
    assert not any(moe.load.any() for moe in idle.moe_layers)
    assert (idle.training.tokens, idle.training.steps) == (0, 0)


def test_the_clock_cuts_training() -> None:
    model = build(proxy(design("A"), 32, 128, task.VOCAB_SIZE))
    stages = task.curriculum(128, 11)
    training = trainer(model, stages, 10**9, deadline=time.monotonic()).run()
    assert (training.ended, training.steps) == ("time", 1)
    assert not model.training


def test_training_that_diverges_ends_with_the_reason_and_a_record_that_json_can_hold() -> None:
    model = build(proxy(design("A"), 32, 128, task.VOCAB_SIZE))
    with torch.no_grad():
        model.norm.weight.fill_(math.nan)
    training = trainer(model, task.curriculum(128, 11), 10**6).run()
    assert training.ended == "diverged: the loss is not finite"
    assert training.steps < 20
    stored = json.dumps(training.result().record(), allow_nan=False)
    assert json.loads(stored)["curve"][-1]["loss"] is None


@pytest.mark.slow
@pytest.mark.timeout(3600)  # against hanging: a minute on one thread
def test_a_hybrid_learns_its_trained_length() -> None:
    length, needles, seed = 64, 4, 0
    small = proxy(presets.get("inter-1to5-1b").spec, 64, length, task.VOCAB_SIZE)
    assert small.pattern == "MMAMMM"
    model = build(small, seed=seed)
    training = Trainer(
        model,
        task.curriculum(length, needles),
        CPU.step_tokens,
        300_000,
        seed,
        math.inf,
        lambda training: None,
    ).run()
    assert (training.length, training.ended) == (length, "planned tokens used")
    made = task.contexts(100, length, needles, torch.Generator().manual_seed(99))
    right = recalled(model, made, torch.device("cpu")) == made.needles[..., 1:]
    # Seeds 0 to 4 recall 96 to 98 % of these 400 values whole, which leaves a margin of 6 %; with
    # Muon's rate at 0 it is none of them.
    assert right.all(-1).float().mean() >= 0.9
