"""Gradients, the trainer and the quick needle test on the device."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from hybrid_core.design import presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.live.modules.model import HybridLM, build
from hybrid_core.live.retrieval import task
from hybrid_core.live.retrieval.niah import niah
from hybrid_core.live.retrieval.options import NiahOptions
from hybrid_core.live.retrieval.proxy import proxy
from hybrid_core.live.retrieval.trainer import Trainer, Training
from tests.conftest import assert_close
from tests.designs import INTRA_COMBINATIONS, axes_id, design, intra_design
from tests.gpu.test_decode import FAMILIES, on, small
from tests.live.test_modules import VARIANTS, lively, some_tokens

pytestmark = pytest.mark.gpu


def gradients(model: HybridLM) -> dict[str, torch.Tensor]:
    """Of the loss of the next token, by the parameters' names, on the CPU."""
    tokens = some_tokens().to(model.embed.weight.device)
    logits = model(tokens[:, :-1])
    F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    return {
        name: parameter.grad.cpu()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def gradients_agree(model: HybridLM, device: torch.device) -> None:
    """In float32 on the device, against the same model in float64 on the CPU."""
    found, expected = gradients(on(device, model)), gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert_close(name, found[name].double(), gradient, 1e-3)


@pytest.mark.parametrize("spec", VARIANTS.values(), ids=VARIANTS)
def test_gradients_of_every_kind_equal_float64(spec: ArchSpec, device: torch.device) -> None:
    gradients_agree(lively(spec), device)


@pytest.mark.parametrize("axes", INTRA_COMBINATIONS[::5], ids=axes_id)
def test_gradients_of_every_fusion_equal_float64(
    axes: dict[str, str], device: torch.device
) -> None:
    gradients_agree(lively(intra_design(axes)), device)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_of_every_family_equal_float64(name: str, device: torch.device) -> None:
    gradients_agree(lively(small(name), spread=0.1), device)


def trained(device: torch.device) -> Training:
    """A small proxy after some steps on short contexts."""
    model = build(proxy(design("MA"), 32, 128, task.VOCAB_SIZE), device)
    return Trainer(
        model, task.curriculum(128, 11), lambda _: 512, 20_000, 0, math.inf, lambda _: None
    ).run()


def test_training_goes_as_on_the_cpu(device: torch.device) -> None:
    """The same data and weights: the first losses agree; later ones drift apart, since Muon rounds
    to bfloat16."""
    here, there = trained(device).curve, trained(torch.device("cpu")).curve
    assert [(point.tokens, point.stage) for point in here[:3]] == [
        (point.tokens, point.stage) for point in there[:3]
    ]
    assert here[0].loss == pytest.approx(there[0].loss, rel=1e-4)
    assert here[1].loss == pytest.approx(there[1].loss, rel=0.05)


@pytest.mark.timeout(150)
def test_the_quick_needle_test_runs_at_the_scale_of_the_device(device: torch.device) -> None:
    """Whether a design learns is for the benchmark to say; here the whole run comes to its end and
    training has begun to learn."""
    parts: dict[str, Any] = {}
    on_gpu = device.type == "cuda"
    scaled = {"budget_s": 30} if on_gpu else {"budget_s": 4, "trials": 2, "trained_len": 128}
    niah(
        presets.get(presets.FIRST).spec,
        NiahOptions.make(device=str(device), **scaled),
        parts.__setitem__,
        lambda *_: None,
    )
    assert parts["proxy"]["trained_len"] == (2048 if on_gpu else 128)
    losses = [point["loss"] for point in parts["training"]["curve"]]
    assert all(map(math.isfinite, losses))
    assert min(losses) < losses[0]
    assert (
        parts["map"]["cells"] or not parts["verdict"]["finding"]
    )  # a proxy that was cut short is not asked for what it was not taught
    assert parts["scores"] and parts["verdict"]["text"]
