"""Losses of the trainer: equal to the functions, with and without gradient caching."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from retro.recipes.dense_retriever.training.config import StartConfig, TinyEncoderConfig, TrainConfig
from retro.recipes.dense_retriever.training.losses.build import build_loss
from retro.recipes.dense_retriever.training.losses.functions import distillation, info_nce, queue_loss, vicreg
from retro.recipes.dense_retriever.training.starting_model import open_start

TEXTS = [["a b", "c", "d a", "b c"], ["a", "c d", "d", "b"], ["d", "b b", "c", "a c"]]
TINY = TinyEncoderConfig(hidden=8, layers=1, heads=2, vocabulary=50, max_tokens=16, dropout=0.0)


def opened(folder: Path, similarity: str = "dot") -> tuple[Any, StartConfig]:
    start = StartConfig.model_validate({"model": None, "tiny": TINY, "similarity": similarity, "max_tokens": 16})
    model = open_start(start, ["a b c d"], 1, folder / "start")
    return model.train(), start


def features(model: Any, columns: int = 2) -> list[dict[str, Tensor]]:
    return [model.preprocess(texts) for texts in TEXTS[:columns]]


def embedded(model: Any, columns: int = 2, *, cosine: bool = False) -> list[Tensor]:
    found = [model(one)["sentence_embedding"] for one in features(model, columns)]
    return [torch.nn.functional.normalize(one, dim=-1) for one in found] if cosine else found


def gradient(model: Any, loss: Tensor | dict[str, Tensor]) -> Tensor:
    model.zero_grad()
    total = torch.stack(list(loss.values())).sum() if isinstance(loss, dict) else loss
    total.backward()
    return torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])


def total(loss: Tensor | dict[str, Tensor]) -> float:
    return float(sum(one.detach() for one in loss.values()) if isinstance(loss, dict) else loss.detach())


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("cached", [0, 3])
def test_infonce_is_that_of_the_function_cached_or_not(
    similarity: str, smoothing: float, cached: int, tmp_path: Path
) -> None:
    model, start = opened(tmp_path, similarity)
    config = TrainConfig(temperature=0.5, label_smoothing=smoothing, cached=cached, negatives=1)
    loss = build_loss(config, start, model)
    found = loss(features(model, 3), None)
    questions, *others = embedded(model, 3, cosine=similarity == "cosine")
    wanted = info_nce(questions, torch.cat(others), 0.5, smoothing=smoothing)
    assert total(found) == pytest.approx(total(wanted), abs=1e-5)
    mine = gradient(model, found)
    torch.testing.assert_close(mine, gradient(model, wanted), atol=1e-5, rtol=1e-4)
    assert loss.spread is not None and 0 < loss.spread < 1


@pytest.mark.parametrize("cached", [0, 3])
def test_vicreg_is_that_of_the_function_cached_or_not(cached: int, tmp_path: Path) -> None:
    model, start = opened(tmp_path)
    found = build_loss(TrainConfig(objective="vicreg", cached=cached), start, model)(features(model), None)
    questions, passages = embedded(model)
    wanted = vicreg(questions, passages, (25.0, 25.0, 1.0))._asdict()
    assert total(found) == pytest.approx(total(wanted), abs=1e-4)
    torch.testing.assert_close(gradient(model, found), gradient(model, wanted), atol=1e-4, rtol=1e-4)
    if not cached:
        assert list(found) == ["invariance", "variance", "covariance"]


def test_an_expander_stands_before_vicreg_and_is_kept_in_checkpoints(tmp_path: Path) -> None:
    model, start = opened(tmp_path)
    loss = build_loss(TrainConfig.model_validate({"objective": "vicreg", "vicreg": {"expander": [6, 5]}}), start, model)
    questions, passages = embedded(model)
    wanted = vicreg(loss.expander(questions), loss.expander(passages), (25.0, 25.0, 1.0))
    assert total(loss(features(model), None)) == pytest.approx(total(wanted._asdict()), abs=1e-4)
    assert {name for name in loss.kept if name.endswith("weight")} == {f"expander.{n}.weight" for n in (0, 1, 3)}


def test_distillation_is_that_of_the_function_times_the_square_of_the_temperature(tmp_path: Path) -> None:
    model, start = opened(tmp_path)
    config = TrainConfig.model_validate(
        {"objective": "distillation", "temperature": 0.5, "distillation": {"reader_temperature": 2.0}}
    )
    reader = torch.tensor([[-1.0, -3.0], [-2.0, -2.5], [-4.0, -1.0], [-1.0, -1.0]])
    found = build_loss(config, start, model)(features(model, 3), reader)
    questions, *passages = embedded(model, 3)
    scores = torch.stack([(questions * one).sum(1) for one in passages], dim=1)
    assert total(found) == pytest.approx(0.25 * total(distillation(scores, reader, 0.5, 2.0)), abs=1e-6)


def test_a_step_of_moco_moves_the_slow_encoder_then_embeds_then_fills_the_queue(tmp_path: Path) -> None:
    model, start = opened(tmp_path)
    config = TrainConfig.model_validate({"objective": "moco", "moco": {"queue": 6, "momentum": 0.75}})
    torch.manual_seed(0)
    loss = build_loss(config, start, model)
    with torch.no_grad():
        for one in model.parameters():
            one.add_(0.1)
    before = [one.clone() for one in loss.slow.parameters()]
    queue = loss.queue_QD.clone()
    found = loss(features(model), None)
    for old, new, fast in zip(before, loss.slow.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * fast)
        assert not new.requires_grad
    keys = loss.slow(features(model)[1])["sentence_embedding"]
    wanted = queue_loss(embedded(model)[0], keys, queue, config.temperature)
    assert total(found) == pytest.approx(total(wanted), rel=1e-5)
    torch.testing.assert_close(loss.queue_QD[:4], keys)
    assert torch.equal(loss.queue_QD[4:], queue[4:]) and int(loss.place_1) == 4
    assert {"queue", "place"} < set(loss.kept)
    gradient(model, found)
    assert all(one.grad is None for one in loss.slow.parameters())


def test_a_loss_in_evaluation_leaves_queue_and_slow_encoder_alone(tmp_path: Path) -> None:
    model, start = opened(tmp_path)
    loss = build_loss(TrainConfig.model_validate({"objective": "moco", "moco": {"queue": 6}}), start, model).eval()
    before = loss.queue_QD.clone()
    loss(features(model), None)
    assert torch.equal(loss.queue_QD, before) and int(loss.place_1) == 0


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"batch_size": 1}, r"TrainConfig.batch_size = 1: needs at least 2 for info_nce"),
        ({"batch_size": 1, "objective": "vicreg"}, r"needs at least 2 for vicreg: the covariance"),
        ({"objective": "vicreg", "negatives": 1}, r"negatives = 1: needs 0 with objective = vicreg"),
        ({"objective": "moco", "cached": 2}, r"cached = 2: needs 0 with objective = moco"),
        ({"objective": "vicreg", "cached": 2, "vicreg": {"expander": [4]}}, r"cached = 2: needs 0 with an expander"),
        ({"refresh_every": 5}, r"refresh_every = 5: needs negatives above 0"),
        ({"refresh_every": 5, "negatives": 1, "lora": {}}, r"refresh_every = 5: needs 0 with lora"),
        ({"schedule": "plateau", "evaluate_every": 0}, r"evaluate_every = 0: needs steps, for schedule = plateau"),
        ({"keep": "best", "evaluate_every": 50, "checkpoint_every": 100}, r"keep = 'best': needs evaluate_every"),
        ({"start": {"model": None}}, r"start.model = None: needs a model"),
        ({"start": {"tiny": {"hidden": 10, "heads": 4}}}, r"hidden = 10: needs a multiple of heads = 4"),
    ],
)
def test_settings_that_cannot_work_are_named(settings: dict[str, Any], named: str) -> None:
    from retro.common.errors import ConfigError

    with pytest.raises(ConfigError, match=named):
        TrainConfig(**settings)


def test_one_pair_is_enough_for_a_batch_with_hard_negatives() -> None:
    assert TrainConfig(batch_size=1, negatives=2).batch_size == 1


def test_crops_larger_than_the_largest_are_refused() -> None:
    from retro.common.errors import ConfigError
    from retro.recipes.dense_retriever.training.config import PretrainConfig

    with pytest.raises(ConfigError, match=r"crop_max = 0.1: needs at least crop_min = 0.3"):
        PretrainConfig(crop_min=0.3, crop_max=0.1)
    with pytest.raises(ConfigError, match=r"PretrainConfig.batch_size = 1: needs at least 2 for info_nce"):
        PretrainConfig(objective="info_nce", batch_size=1)
