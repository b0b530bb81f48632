"""Perplexity with passages in the prompt: prompts by hand, against an independent computation, and what it refuses."""

from __future__ import annotations

import json
import logging
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from retro.cli.main import app
from retro.common.errors import ConfigError
from retro.corpus.reader import Corpus, TokenStream
from retro.db.reader import ChunkDatabase
from retro.index.search import DenseSearch
from retro.index.searcher import open_searcher
from retro.mcore import parallel
from retro.model.model import RetroModel
from retro.pretrain import in_context
from retro.pretrain.config import InContextConfig, PerplexityConfig
from retro.pretrain.in_context_data import DocumentLosses, PromptSource, Targets, all_targets, spread
from retro.pretrain.in_context_passages import OtherDocuments, of_search, query_texts, shown_documents, shuffled
from retro.run.config import RunConfig, as_yaml
from retro.run.pipeline import database_dirs, measure_checkpoint, stage
from tests.pretrain.told import alone
from tests.tiny_road import run_stages, small_config

M = 16
ASKED = "perplexity.in_context={bootstrap_samples: 200, prefix: 8}"


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose run has a Retro and a GPT, and perplexities with passages in the prompt."""
    folder = tmp_path_factory.mktemp("road")
    config = small_config(folder, "pretrain.baselines=[gpt]", ASKED)
    run_stages(config, "corpus", "db", "index", "neighbors", "pretrain", "perplexity")
    return folder


def config_of(folder: Path, *overrides: str) -> RunConfig:
    return small_config(folder, "pretrain.baselines=[gpt]", ASKED, *overrides, write=False)


def result_of(config: RunConfig) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((stage("perplexity").path(config) / "in_context.json").read_text())
    return found


def prepared(config: RunConfig, **checkpoints: Path) -> in_context.Measurement:
    db, index = database_dirs(config)
    dirs = (stage("corpus").path(config), db, stage("neighbors").path(config), index)
    made = in_context.prepare(config.perplexity, config.parallel, checkpoints, *dirs, config.search)
    assert made is not None
    return made


def stream(*lengths: int) -> Any:
    """A stream of documents of these lengths, its tokens their own positions."""
    bounds = np.cumsum([0, *lengths])

    def tokens(starts: Any, width: int) -> np.ndarray:
        return np.array([np.arange(start, start + width) for start in starts], dtype=np.int32)

    def documents_at(positions: Any) -> Any:
        return np.searchsorted(bounds, positions, side="right") - 1

    return SimpleNamespace(
        bounds=bounds, length=int(bounds[-1]), documents=np.arange(len(lengths)), tokens=tokens,
        documents_at=documents_at,
    )  # fmt: skip


def test_a_stream_is_scored_from_its_second_run_on() -> None:
    targets = all_targets([stream(5, 6), stream(3)], 4, "stream")
    assert targets.source_T.tolist() == [0, 0]
    assert (targets.start_T.tolist(), targets.count_T.tolist()) == ([4, 8], [4, 3])
    assert targets.begin_T.tolist() == [0, 0]


def test_within_documents_every_run_looks_back_to_the_beginning_of_its_own() -> None:
    targets = all_targets([stream(5, 2, 9)], 4, "documents")
    assert (targets.start_T.tolist(), targets.count_T.tolist()) == ([4, 11, 15], [1, 4, 1])
    assert targets.begin_T.tolist() == [0, 7, 7]


def test_targets_are_taken_at_equal_distances() -> None:
    targets = all_targets([stream(44)], 4, "stream")
    assert spread(targets, 3).start_T.tolist() == [4, 16, 28]
    assert len(spread(targets, 99)) == 10


def test_the_best_passage_stands_next_to_the_text_and_only_the_target_counts() -> None:
    passages = np.array([[[100, 101, 102], [200, 0, 0]], [[300, 301, 0], [0, 0, 0]]], dtype=np.int32)
    real = np.array([[[1, 1, 1], [1, 0, 0]], [[1, 1, 0], [0, 0, 0]]], dtype=bool)
    database: Any = SimpleNamespace(neighbor_tokens=lambda ids: (passages[ids[:, 0]], real[ids[:, 0]]))
    source = PromptSource(
        [stream(20)], all_targets([stream(20)], 4, "stream"), prefix=3, length=14, eod=9, database=database,
        passages_TP=np.array([[0, 0], [1, 1], [0, 0], [0, 0]]), separator=[7],
    )  # fmt: skip
    batch = source.fetch(np.array([0, 1]))
    assert batch.tokens_BS[0].tolist() == [200, 7, 100, 101, 102, 7, 1, 2, 3, 4, 5, 6, 7, 9]
    assert batch.labels_BS[0].tolist() == [7, 100, 101, 102, 7, 1, 2, 3, 4, 5, 6, 7, 9, 9]
    assert batch.labels_BS[0][batch.loss_mask_BS[0] > 0].tolist() == [4, 5, 6, 7]
    assert batch.tokens_BS[1].tolist() == [300, 301, 7, 5, 6, 7, 8, 9, 10, 11, 9, 9, 9, 9]
    assert batch.labels_BS[1][batch.loss_mask_BS[1] > 0].tolist() == [8, 9, 10, 11]


def test_losses_belong_to_the_documents_of_their_tokens() -> None:
    streams = [stream(6, 1, 5), stream(9)]
    targets = all_targets(streams, 4, "stream")
    parallel.start()
    losses = DocumentLosses(streams, targets)
    source = PromptSource(streams, targets, prefix=2, length=6, eod=0)
    numbers = np.array([2, 0, 1, -1, 3])
    batch = source.fetch(np.maximum(numbers, 0))
    # Told losses are the positions of the labels.
    losses.add(numbers, batch.labels_BS.astype(np.float32), batch.loss_mask_BS)
    loss, tokens = losses.by_document()
    assert tokens.tolist() == [2, 1, 5, 5]
    assert loss.tolist() == [4 + 5, 6, 7 + 8 + 9 + 10 + 11, 4 + 5 + 6 + 7 + 8]


def test_shuffled_passages_come_from_a_document_that_the_prompt_does_not_show() -> None:
    streams = [stream(64, 8, 8), stream(8)]
    targets = all_targets(streams, 4, "documents")
    shown = shown_documents(streams, targets, 4)
    ids = np.arange(len(targets))[:, None]
    document = shown[0] + 10 * targets.source_T
    for seed in range(5):
        given, own = shuffled(ids, targets, shown, seed)
        assert own == 0
        assert (document[given[:, 0]] != document).all()
    # Of one document there is no other.
    alone_targets = all_targets([stream(64)], 4, "documents")
    _, own = shuffled(ids[: len(alone_targets)], alone_targets, shown_documents([stream(64)], alone_targets, 4), 0)
    assert own == len(alone_targets)


def opened(config: RunConfig) -> tuple[Corpus, ChunkDatabase]:
    corpus = Corpus.open(stage("corpus").path(config))
    return corpus, ChunkDatabase.open(stage("db").path(config), corpus)


def test_a_prompt_never_holds_a_passage_of_a_document_that_it_shows(road: Path) -> None:
    config = config_of(road)
    corpus, database = opened(config)
    # The training split: its documents are those that can be found.
    streams = [TokenStream(corpus, 0, 0, M)]
    targets = all_targets(streams, 8, "stream")
    shown = shown_documents(streams, targets, 24)
    others = OtherDocuments(database, streams, targets, shown, 3)
    searcher = open_searcher(stage("index").path(config), database)
    ids = of_search(DenseSearch(searcher), streams, targets, 12, others)
    assert (ids >= 0).all()
    documents = [streams[0].documents[first : last + 1].tolist() for first, last in zip(*shown, strict=True)]
    found = database.columns["document"][ids]
    assert not any(set(row.tolist()) & set(own) for row, own in zip(found, documents, strict=True))
    # Without the filter they would: the nearest chunk to a piece of a document is mostly its own.
    vectors = searcher.embedder.embed_queries(query_texts(database, streams, targets, 12), lambda _: None)
    nearest = database.columns["document"][searcher.search(vectors, 1, database.retrievable)[0]]
    own = [row[0] in mine for row, mine in zip(nearest.tolist(), documents, strict=True)]
    assert np.mean(own) > 0.5


def test_a_live_search_is_by_what_the_run_searches_by(road: Path) -> None:
    pytest.importorskip("bm25s")
    config = config_of(road, "search.source=bm25", "perplexity.in_context={search: live, prefix: 8, passages: 1}")
    run_stages(config, "index")
    made = prepared(config, gpt=stage("pretrain").path(config) / "gpt")
    assert made.search is not None and set(made.search.parents) == {"bm25"}
    (info,) = made.infos.values()
    assert (made.find(made.lengths(info.shape)).passages["found"] >= 0).any()


def test_every_prompt_begins_with_what_is_wanted_and_has_room_for_it() -> None:
    targets = all_targets([stream(40)], 4, "stream")
    plain, begun = (
        PromptSource([stream(40)], targets, prefix=8, length=16, eod=99, begin=begin).fetch(np.array([3, 0]))
        for begin in ((), (77,))
    )
    # Target 3 is tokens 16 to 19, after 8 to 15; target 0 tokens 4 to 7, after 0 to 3. The last is asked for alone.
    assert plain.tokens_BS[0].tolist() == [*range(8, 20), 99, 99, 99, 99]
    assert begun.tokens_BS[0].tolist() == [77, *range(8, 20), 99, 99, 99]
    assert begun.loss_mask_BS is not None
    assert [row[mask > 0].tolist() for row, mask in zip(begun.labels_BS, begun.loss_mask_BS, strict=True)] == [
        [16, 17, 18, 19],
        [4, 5, 6, 7],
    ]


def test_all_conditions_score_the_same_tokens_of_the_same_documents(road: Path) -> None:
    found = result_of(config_of(road))
    rows = [(row["model"], row["passages"]) for row in found["rows"]]
    conditions = ("found", "shuffled", "none", "more_text")
    assert rows == [(model, condition) for model in ("gpt", "retro") for condition in conditions]
    corpus, _ = opened(config_of(road))
    valid = TokenStream(corpus, 0, 1, M)
    assert {row["tokens"] for row in found["rows"]} == {valid.length - M}
    assert len({row["documents"] for row in found["rows"]}) == 1
    for row in found["rows"]:
        assert row["perplexity"] == pytest.approx(math.exp(row["loss"]))
        assert row["low"] <= row["perplexity"] <= row["high"]
    losses = {(row["model"], row["passages"]): row["loss"] for row in found["rows"]}
    for one in found["differences"]:
        mean = losses[one["model"], "found"] - losses[one["model"], one["minus"]]
        assert one["mean"] == pytest.approx(mean, abs=1e-9)
        assert 0 < one["p_value"] <= 1


def test_without_passages_it_is_plain_perplexity_over_overlapping_windows(road: Path) -> None:
    # Independently: every window cut by hand, one pass of the bare model each, cross-entropy from its logits.
    corpus, _ = opened(config_of(road))
    valid = TokenStream(corpus, 0, 1, M)
    tokens = torch.from_numpy(valid.tokens([0], valid.length)[0].astype(np.int64))
    found = {(row["model"], row["passages"]): row["loss"] for row in result_of(config_of(road))["rows"]}
    length, room = 64, 2 * M + len(corpus.tokenizer.encode("\n"))
    for name in ("gpt", "retro"):
        (model,), _ = alone(stage("pretrain").path(config_of(road)) / name)
        for condition, before in (("none", 8), ("more_text", 8 + room)):
            losses = []
            for start in range(M, len(tokens), M):
                window = tokens[max(0, start - before) : start + M]
                assert len(window) <= length + 1
                with torch.no_grad():
                    logits = model(window[None, :-1])[0, -len(tokens[start : start + M]) :].float()
                losses.append(torch.nn.functional.cross_entropy(logits, tokens[start : start + M], reduction="none"))
            assert found[name, condition] == pytest.approx(float(torch.cat(losses).mean()), abs=1e-5)


def copying(self: RetroModel, tokens_BS: torch.Tensor, *args: Any, segments_BS: Any = None) -> torch.Tensor:
    """Loss 0.1 where the same pair of tokens was before in the prompt, else 5: a reader that copies."""
    labels_BS = args[3]
    losses = torch.full(tokens_BS.shape, 5.0)
    for row, (tokens, labels) in enumerate(zip(tokens_BS.tolist(), labels_BS.tolist(), strict=True)):
        seen: set[tuple[int, int]] = set()
        for place, pair in enumerate(zip(tokens, labels, strict=True)):
            losses[row, place] = 0.1 if pair in seen else 5.0
            seen.add(pair)
    return losses


def test_a_reader_that_copies_gains_from_what_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    texts = [" ".join(f"w{word}" for word in random.integers(5000, size=60)) for _ in range(40)]
    lines = [json.dumps({"id": f"{n}{twin}", "text": text}) for twin in "ab" for n, text in enumerate(texts)]
    asked = ("train.steps=2", "pretrain.baselines=[]", "corpus.split=[0.6, 0.4, 0.0]")
    config = small_config(tmp_path, *asked)
    (tmp_path / "text.jsonl").write_text("\n".join(lines) + "\n")
    run_stages(config, "corpus", "db", "index", "neighbors", "pretrain")
    monkeypatch.setattr(RetroModel, "forward", copying)
    prompts: dict[str, Any] = {"prefix": 4, "bootstrap_samples": 100, "search": "live", "text": "documents"}
    live = config.model_copy(update={"perplexity": PerplexityConfig(in_context=InContextConfig(**prompts))})
    found = in_context.run(prepared(live, retro=stage("pretrain").path(config) / "retro"), tmp_path / "out")
    losses = {row["passages"]: row["loss"] for row in found["rows"]}
    against = {one["minus"]: one for one in found["differences"]}
    # Of six twins in ten the other one is in the training split.
    assert losses["found"] < 0.7 * losses["none"]
    assert losses["found"] < 0.7 * losses["shuffled"]
    for other in ("none", "shuffled"):
        assert against[other]["high"] < 0
        assert against[other]["p_value"] < 0.001


def test_what_is_measured_is_not_measured_again_and_other_settings_replace_it(
    road: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(road, tmp_path / "copy")
    folder = tmp_path / "copy"
    path = stage("perplexity").path(config_of(folder)) / "in_context.json"
    before, stamp = json.loads(path.read_text()), path.stat().st_mtime_ns
    run_stages(config_of(folder), "perplexity")
    assert path.stat().st_mtime_ns == stamp
    with caplog.at_level(logging.WARNING):
        run_stages(config_of(folder, "perplexity.in_context.targets=5"), "perplexity")
    assert "was measured otherwise (settings, models or data); measuring again" in caplog.text
    after = json.loads(path.read_text())
    assert after["prompts"]["gpt"]["targets"] == 5
    assert after["rows"][0]["tokens"] < before["rows"][0]["tokens"]
    # The numbers without passages belong to other settings and stay.
    run_stages(small_config(folder, "pretrain.baselines=[gpt]", write=False), "perplexity")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "stride=8",
            r"perplexity\.in_context\.stride = 8: needs 16, a chunk, for passages that `retro neighbors` found",
        ),
        ("query_length=8", r"query_length = 8: needs 16"),
        ("length=65", r"length = 65: needs at most 64, the model's sequence length"),
        ("length=48", r"length = 48: needs more room: 1 x 3\d tokens of passages, 16 to score, and 8 before them"),
        ("passages=3", r"length = 64: needs more room"),
        ("text=documents", r"needs search=live: neighbors are the stream's"),
        ("conditions=[none, none]", r"needs each condition once"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(road: Path, override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        prepared(
            config_of(road, f"perplexity.in_context.{override}"), gpt=stage("pretrain").path(config_of(road)) / "gpt"
        )


def test_any_stride_works_with_a_live_search(road: Path) -> None:
    config = config_of(
        road,
        "perplexity.in_context={search: live, stride: 5, query_length: 12, length: 50, passages: 1, targets: 7, "
        "bootstrap_samples: 50, separator: ''}",
    )
    made = prepared(config, gpt=stage("pretrain").path(config) / "gpt")
    lengths = made.lengths(made.infos["gpt"].shape)
    assert (lengths.stride, lengths.query, lengths.room, lengths.prefix) == (5, 12, 32, 14)
    found = made.find(lengths)
    assert found.targets.count_T.tolist()[:-1] == [5] * 6
    assert (found.passages["found"] >= 0).all()


def test_a_checkpoint_of_a_stopped_run_is_measured_beside_the_run(road: Path, tmp_path: Path) -> None:
    shutil.copytree(road, tmp_path / "copy")
    folder = tmp_path / "copy"
    config = config_of(folder, "perplexity.in_context.targets=4")
    pretrain = stage("pretrain").path(config)
    for name in ("manifest.json", "retro/result.json", "gpt/result.json"):
        (pretrain / name).unlink()
    shutil.rmtree(pretrain / "gpt/checkpoints/step_00000006")
    shutil.rmtree(pretrain / "perplexity")
    (folder / "run.yaml").write_text(as_yaml(config))
    done = CliRunner().invoke(
        app, ["perplexity", f"{folder}/run.yaml", "--checkpoint", f"{pretrain}/gpt", "--json"], catch_exceptions=False
    )
    shown = json.loads(done.stdout)
    out = Path(shown["directory"])
    assert out.name.startswith("gpt_step_00000004_")
    assert out.parent == config.run_dir / "perplexity_of"
    assert [row["model"] for row in shown["perplexity"]["rows"]] == ["gpt_step_00000004"]
    assert [row["passages"] for row in shown["in_context"]["rows"]] == ["found", "shuffled", "none", "more_text"]
    assert not (pretrain / "perplexity").exists()
    stamp = (out / "in_context.json").stat().st_mtime_ns
    assert measure_checkpoint(config, pretrain / "gpt/checkpoints/step_00000004") == out
    assert (out / "in_context.json").stat().st_mtime_ns == stamp
    measure_checkpoint(config, pretrain / "gpt", again=True)
    assert (out / "in_context.json").stat().st_mtime_ns != stamp


def test_targets_are_values() -> None:
    one = Targets(*(np.arange(4) for _ in range(4)))
    assert one.take(np.array([1, 3])).start_T.tolist() == [1, 3]
