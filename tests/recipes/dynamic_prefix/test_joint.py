"""Retriever and reader trained together in a world of facts: both get better; a stopped run ends in the same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.index.config import EmbedderConfig
from retro.index.embedder import EMBEDDERS
from retro.model.config import ModelShape
from retro.model.model import RetroModel
from retro.model.prefix import PrefixInputs
from retro.qa.question import Context, Question
from retro.recipes.dynamic_prefix.config import DataConfig
from retro.recipes.dynamic_prefix.joint import training as joint_training
from retro.recipes.dynamic_prefix.joint.config import JointConfig, PenaltyConfig
from retro.recipes.dynamic_prefix.joint.documents import QuestionDocuments, embed_documents, open_documents
from retro.recipes.dynamic_prefix.joint.loss import JointLoss
from retro.recipes.dynamic_prefix.joint.marginal import marginal_loss
from retro.recipes.dynamic_prefix.joint.refresh import IndexRefresher, Schedule
from retro.recipes.dynamic_prefix.joint.retriever import JointRetriever, trained_embedder
from retro.recipes.dynamic_prefix.joint.run import answer_recall, searched
from retro.recipes.dynamic_prefix.joint.source import JointSource, Reader, step_of
from retro.recipes.dynamic_prefix.joint.training import JointParts, build_index, filled_modules, train_joint
from retro.recipes.dynamic_prefix.training.samples import document_text
from retro.recipes.passages.config import PassagesConfig
from retro.training.config import ParallelConfig
from retro.training.data_loader import MicroBatch
from tests.recipes.dynamic_prefix.joint_world import (
    Words,
    World,
    embedder,
    exact_match,
    joint_config,
    joint_parts,
    make_world,
    recall,
    retriever_folder,
    title_probe,
    train_reader,
)

pytest.importorskip("faiss")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def world() -> World:
    return make_world()


@pytest.fixture(scope="module")
def folder(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained retriever."""
    return retriever_folder(tmp_path_factory.mktemp("retriever") / "model", world)


@pytest.fixture(scope="module")
def reader(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader that has learned to read, each question with its own document."""
    out = tmp_path_factory.mktemp("reader")
    train_reader(world, out, 200)
    return out


def kept(parts: JointParts) -> tuple[JointParts, dict[str, Any]]:
    """The parts, and where their network will be once it is built."""
    found: dict[str, Any] = {}

    def modules(model: RetroModel, shape: ModelShape) -> Mapping[str, nn.Module]:
        made = parts.reader(model, shape)
        found["model"] = model
        return made

    return replace(parts, reader=modules), found


def test_both_get_better_on_persons_that_training_never_saw(
    world: World, folder: Path, reader: Path, tmp_path: Path
) -> None:
    config = joint_config(folder, 250, documents=8, temperature=0.05, refresh_every=10, refresh_delay=3)
    parts, network = kept(joint_parts(config, world, reader))
    untrained = build_index(world.documents, parts.retriever.eval())
    before = recall(untrained, world, world.valid, 1)
    # The reader as the step `train` left it: one step that moves nothing.
    still = joint_config(folder, 1, train={"lr": 1e-30, "warmup_steps": 0})
    start, start_network = kept(joint_parts(still, world, reader))
    train_joint(still, start, ParallelConfig(), tmp_path / "start")
    read_before = exact_match(start_network["model"].eval(), untrained, world, world.valid)

    result, _ = train_joint(config, parts, ParallelConfig(), tmp_path / "run")
    trained = build_index(world.documents, parts.retriever.eval())
    after = recall(trained, world, world.valid, 1)
    read_after = exact_match(network["model"].eval(), trained, world, world.valid)
    print(f"recall@1 {before:.3f} -> {after:.3f}, EM {read_before:.3f} -> {read_after:.3f}")
    assert before <= 0.3
    assert after >= 0.85
    assert read_before <= 0.35
    assert read_after >= 0.8
    # The mean over questions of -log p(y|x), in nats of an answer.
    assert result.valid_loss is not None
    assert result.valid_loss < 1.0


SHORT: dict[str, Any] = {"refresh_every": 8, "refresh_delay": 3}
SAVED: dict[str, Any] = {"save_every": 5, "log_every": 1, "micro_batch": 8}


@pytest.fixture(scope="module")
def whole(world: World, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 24 steps that nothing stopped."""
    out = tmp_path_factory.mktemp("whole")
    config = joint_config(folder, 24, train=SAVED, **SHORT)
    result, _ = train_joint(config, joint_parts(config, world), ParallelConfig(), out)
    (out / "digest").write_text(result.weights_sha256)
    return out


# Checkpoints at 5, 10, 15, 20; snapshots 8 and 16 are first used in steps 11 and 19. Stopped in step 9: the snapshot is
# being taken, and taken once more. 13: from 10, whose next step uses a snapshot that only the disk has. 18: from 15,
# and the snapshot that was being built is built again.
@pytest.mark.parametrize("stop", [3, 9, 13, 18])
def test_a_run_stopped_in_any_step_goes_on_to_the_same_bytes(
    stop: int, world: World, folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = joint_config(folder, 24, train=SAVED, **SHORT)
    usual = JointLoss.__call__

    def stopping(self: JointLoss, model: nn.Module, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        found = usual(self, model, batch)
        if self.step == stop:
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patched:
        patched.setattr(JointLoss, "__call__", stopping)
        with pytest.raises(KeyboardInterrupt):
            train_joint(config, joint_parts(config, world), ParallelConfig(), tmp_path)
    result, _ = train_joint(config, joint_parts(config, world), ParallelConfig(), tmp_path)
    assert result.weights_sha256 == (whole / "digest").read_text()
    for pattern in ("snapshots/*.safetensors", "checkpoints/step_00000024/*.distcp"):
        theirs = {one.name: one.read_bytes() for one in whole.glob(pattern)}
        assert theirs
        assert {one.name: one.read_bytes() for one in tmp_path.glob(pattern)} == theirs


def test_documents_do_not_depend_on_how_fast_an_index_is_built(
    world: World, folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    usual = build_index

    def slow(documents: Any, retriever: JointRetriever, stopped: Any) -> Any:
        time.sleep(0.3)
        return usual(documents, retriever, stopped)

    monkeypatch.setattr(joint_training, "build_index", slow)
    config = joint_config(folder, 24, train=SAVED, **SHORT)
    result, _ = train_joint(config, joint_parts(config, world), ParallelConfig(), tmp_path)
    assert result.weights_sha256 == (whole / "digest").read_text()


def test_the_index_makes_a_difference(world: World, folder: Path, whole: Path, tmp_path: Path) -> None:
    config = joint_config(folder, 24, train=SAVED, refresh_every=0)
    result, _ = train_joint(config, joint_parts(config, world), ParallelConfig(), tmp_path)
    assert result.weights_sha256 != (whole / "digest").read_text()
    losses = [
        [json.loads(line).get("loss") for line in (out / "log.jsonl").read_text().splitlines()]
        for out in (whole, tmp_path)
    ]
    # Up to step 10 both search in the index of the start.
    assert losses[0][:10] == losses[1][:10]
    assert losses[0][10:] != losses[1][10:]


def untouched(config: JointConfig, world: World, out: Path, reader: Path | None = None) -> tuple[Any, JointParts]:
    """The network of a run of one step that moves nothing, and its parts."""
    settings = config.train.model_copy(update={"steps": 1, "lr": 1e-30, "warmup_steps": 0})
    still = config.model_copy(update={"train": settings, "refresh_every": 0})
    parts, network = kept(joint_parts(still, world, reader))
    train_joint(still, parts, ParallelConfig(), out)
    return network["model"].eval(), parts


def micro_batch(batch: Any) -> MicroBatch:
    """A batch as tensors."""
    own = {name: torch.from_numpy(getattr(batch, name)) for name in ("tokens_BS", "labels_BS", "loss_mask_BS")}
    further = {name: torch.from_numpy(array) for name, array in batch.further.items()}
    missing = dict.fromkeys(("neighbors_BLKR", "neighbor_mask_BLKR", "token_mask_BS", "segments_BS"))
    return MicroBatch(**own, **missing, further=further)


def test_the_loss_is_the_marginal_over_documents_that_are_read_and_scored_one_at_a_time(
    world: World, folder: Path, tmp_path: Path
) -> None:
    config = joint_config(folder, 24, documents=3)
    model, parts = untouched(config, world, tmp_path)
    retriever = parts.retriever.eval()
    index = build_index(world.documents, retriever)
    source = JointSource(
        parts.train.source,
        parts.train.questions,
        Reader(world.documents, parts.knowledge, retriever, 3),
        lambda _: index,
    )
    batch = source.fetch(np.arange(5))
    with IndexRefresher(tmp_path, Schedule(every=0, delay=3), lambda _: index, steps=1) as refresher, torch.no_grad():
        losses, mask = JointLoss(config, refresher)(model, micro_batch(batch))
    assert mask.tolist() == [[1.0]] * 5
    words = Words(world.words)
    for row, number in enumerate(range(5)):
        question = parts.train.questions[parts.train.source.place(number)]
        vector = retriever.embed_questions([question.question])[0]
        scores, answers = [], []
        for document in world.documents.at(index.search([question.question], 3)[0].tolist()):
            text = document_text(document)
            scores.append(float(vector @ retriever.embed_documents([text])[0]) / config.temperature)
            ids = torch.tensor(words.encode([text])[0])
            with torch.no_grad():
                prefix = PrefixInputs(*model.added_knowledge(ids[None], torch.ones_like(ids).bool()[None]))
                logits = model(torch.tensor([words.ids(question.question)]), prefix=prefix)[0, -1]
            answers.append(float(logits.log_softmax(-1)[words.ids(question.answers[0])[0]]))
        expected = marginal_loss(torch.tensor([scores]), torch.tensor([answers]))
        torch.testing.assert_close(losses[row], expected, atol=1e-4, rtol=1e-4)


def test_a_step_is_the_mean_over_its_questions_however_they_are_cut_into_micro_batches(
    world: World, folder: Path, whole: Path, tmp_path: Path
) -> None:
    def first(out: Path) -> float:
        return float(json.loads((out / "log.jsonl").read_text().splitlines()[0])["loss"])

    config = joint_config(folder, 1, train={"micro_batch": 4, "warmup_steps": 0}, refresh_every=0)
    train_joint(config, joint_parts(config, world), ParallelConfig(), tmp_path)
    assert first(tmp_path) == pytest.approx(first(whole), rel=1e-5)


def test_every_weight_of_both_towers_and_of_the_reader_moves_and_the_language_model_does_not(
    world: World, folder: Path, tmp_path: Path
) -> None:
    config = joint_config(folder, 2, train={"warmup_steps": 0}, towers="separate", refresh_every=0)
    parts, network = kept(joint_parts(config, world))
    before = {name: one.detach().clone() for name, one in parts.retriever.named_parameters()}
    assert any(name.startswith("question_tower.") for name in before)
    train_joint(config, parts, ParallelConfig(), tmp_path)
    still, _ = untouched(config, world, tmp_path / "still")
    for name, one in parts.retriever.named_parameters():
        # A softmax does not see what is added to all keys.
        moved = not torch.equal(one, before[name]) or name.endswith("key.bias")
        assert moved, name
    theirs = dict(still.named_parameters())
    for name, one in network["model"].named_parameters():
        if not name.startswith("added_"):
            assert torch.equal(one, theirs[name]), name


@pytest.mark.parametrize("towers", ["shared", "separate"])
def test_the_trained_retriever_is_an_embedder_that_embeds_as_it_was_trained_to(
    towers: str, world: World, folder: Path, tmp_path: Path
) -> None:
    settings = embedder(folder, query_prefix="which ", passage_prefix="mr ", normalize=False)
    retriever = JointRetriever(settings, separate=towers == "separate").eval()
    with torch.no_grad():
        for number, one in enumerate(retriever.parameters()):
            one.add_(0.01 * (number % 7))
    retriever.save(tmp_path / "old")
    retriever.save(tmp_path / "retriever")
    (tmp_path / "retriever").rename(tmp_path / "moved")
    found = trained_embedder(tmp_path / "moved")
    assert (found.query_model is not None) == (towers == "separate")
    served = EMBEDDERS.find(found.kind, "kind").open(found, tmp_path)
    questions, texts = [one.question for one in world.valid[:5]], [one.contexts[0].text for one in world.valid[:7]]
    np.testing.assert_allclose(served.embed_queries(questions), retriever.embed_questions(questions), atol=2e-5)
    np.testing.assert_allclose(served.embed_passages(texts), retriever.embed_documents(texts), atol=2e-5)


def test_a_sentence_transformer_is_trained_and_saved_in_its_own_form(
    world: World, folder: Path, tmp_path: Path
) -> None:
    library = pytest.importorskip("sentence_transformers")
    # Of a plain folder it makes an encoder and the mean of its states.
    given = library.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    given.save(str(tmp_path / "given"), create_model_card=False)
    settings = embedder(tmp_path / "given", kind="sentence_transformers", pooling="auto")
    config = joint_config(folder, 2, train={"warmup_steps": 0}, retriever=settings, refresh_every=0)
    made = joint_parts(config, world)
    before = made.retriever.embed_documents(["mr ba be"])
    train_joint(config, made, ParallelConfig(), tmp_path / "run")
    made.retriever.eval().save(tmp_path / "retriever")
    again = JointRetriever(trained_embedder(tmp_path / "retriever"), separate=False).eval()
    after = again.embed_documents(["mr ba be"])
    np.testing.assert_allclose(after, made.retriever.embed_documents(["mr ba be"]), atol=1e-6)
    assert np.abs(after - before).max() > 1e-3
    assert np.linalg.norm(after) == pytest.approx(1.0, abs=1e-5)


class OwnDocument:
    """Finds the document of each question."""

    def __init__(self, world: World) -> None:
        self._world = world
        contexts = [one.contexts[0] for one in (*world.train, *world.valid)]
        rows = {one.document_id: one.row for one in world.documents.at(range(len(world.documents)))}
        texts = [one.question for one in (*world.train, *world.valid)]
        self._row_of = {text: rows[one.document_id] for text, one in zip(texts, contexts, strict=True)}

    def search(self, questions: Sequence[str], k: int) -> NDArray[np.int64]:
        return np.array([[self._row_of[one]] * k for one in questions])


def test_with_a_penalty_the_prefix_no_longer_tells_the_group_and_answers_stay_right(
    world: World, folder: Path, reader: Path, tmp_path: Path
) -> None:
    usual = joint_config(folder, 120, documents=8, temperature=0.05, refresh_every=10, refresh_delay=3)
    penalties = {"penalties": (PenaltyConfig(name="group_probe", weight=1.0),), "group_label": "title"}
    read = []
    for name, config in (("without", usual), ("with", usual.model_copy(update=penalties))):
        parts, network = kept(joint_parts(config, world, reader))
        train_joint(config, parts, ParallelConfig(), tmp_path / name)
        model = network["model"].eval()
        read.append((title_probe(model, world), exact_match(model, OwnDocument(world), world, world.valid)))
    print(f"probe, EM without {read[0]} and with {read[1]}")
    # Of two groups a probe that reads nothing tells half.
    assert read[1][0] <= 0.7
    assert read[1][0] <= read[0][0] - 0.15
    assert read[1][1] >= 0.8
    assert read[1][1] >= read[0][1] - 0.1


def test_groups_that_no_question_has_are_named(world: World, folder: Path, tmp_path: Path) -> None:
    penalties = (PenaltyConfig(name="group_means"),)
    config = joint_config(folder, 2, penalties=penalties, group_label="titel", train={"warmup_steps": 0})
    with pytest.raises(ConfigError, match=r"joint.group_label = 'titel': needs .*none has it; labels are: title"):
        train_joint(config, joint_parts(config, world), ParallelConfig(), tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"refresh_delay": 2}, r"refresh_delay = 2: needs at least 3"),
        ({"refresh_every": 20, "refresh_delay": 20}, r"refresh_delay = 20: needs less than refresh_every = 20"),
        ({"penalties": (PenaltyConfig(name="group_means"),)}, r"group_label = '': needs a label of questions"),
        ({"train": {"train_only": "all"}}, r"train = .*needs train_only: modules"),
        ({"documents": 0}, r"documents = 0"),
        ({"temperature": 0.0}, r"temperature = 0.0"),
    ],
)
def test_settings_that_cannot_work_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        joint_config(Path("model"), 20, **settings)


def test_a_retriever_without_weights_and_a_second_tower_that_is_not_there_are_named() -> None:
    with pytest.raises(ConfigError, match=r"retriever = .*needs a kind with weights to train"):
        JointConfig(retriever=EmbedderConfig())
    with pytest.raises(ConfigError, match=r"towers = 'shared': needs 'separate' with retriever.query_model"):
        JointConfig(retriever=embedder(Path("model"), query_model="other"))


def test_more_documents_than_there_are_and_a_database_are_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"joint.documents = 145: needs at most 144, all there are"):
        open_documents(DataConfig(), tmp_path, [*world.train, *world.valid], 145)
    with pytest.raises(ConfigError, match=r"data.passages.passages = None: needs a file of passages"):
        open_documents(DataConfig(retrieve=True), tmp_path, (), 1)


def test_documents_come_once_and_from_a_file_by_row(tmp_path: Path) -> None:
    one = Context(title="T", text="same", document_id="1")
    questions = [
        Question(id=str(n), question="q", answers=("a",), contexts=(one, replace(one, text=f"{n}"))) for n in (0, 1)
    ]
    found = QuestionDocuments(questions)
    assert [context.text for context in found.at(range(len(found)))] == ["same", "0", "1"]
    assert [context.row for context in found.at([2, 0])] == [2, 0]
    file = tmp_path / "passages.tsv"
    file.write_text("id\ttext\ttitle\n7\tfirst text\tA\n9\tsecond text\tB\n")
    data = DataConfig(retrieve=True, passages=PassagesConfig(passages=file))
    documents = open_documents(data, tmp_path / "store", (), 2)
    assert [document_text(context) for context in documents.at([1, 0])] == ["B second text", "A first text"]
    assert embed_documents(documents, lambda texts: np.ones((len(texts), 2), dtype=np.float32)).shape == (2, 2)
    with pytest.raises(CancelledError):
        embed_documents(documents, lambda texts: np.ones((len(texts), 2), dtype=np.float32), lambda: True)


def test_numbers_say_their_step_and_those_of_several_steps_are_a_mistake() -> None:
    assert [step_of(np.array([number]), 8) for number in (0, 7, 8)] == [1, 1, 2]
    with pytest.raises(ValueError, match="samples 7 to 8 are of several steps"):
        step_of(np.array([7, 8]), 8)


def test_a_blank_text_is_named_and_a_row_of_padding_has_no_vector(folder: Path) -> None:
    retriever = JointRetriever(embedder(folder), separate=False).eval()
    with pytest.raises(DataError, match="text 1 of 2 is blank"):
        retriever.encode_documents(["ba", " "])
    ids, marks = torch.zeros(2, 4, dtype=torch.long), torch.zeros(2, 4, dtype=torch.int8)
    marks[1] = 2
    found = retriever.document(ids, marks)
    assert found[0].abs().sum() == 0
    assert torch.isfinite(found).all()


def test_a_reader_that_was_trained_under_other_settings_is_named(
    world: World, folder: Path, reader: Path, tmp_path: Path
) -> None:
    config = joint_config(folder, 2, train={"warmup_steps": 0})
    parts = joint_parts(config, world)
    fresh = parts.reader

    def more(model: RetroModel, shape: ModelShape) -> Mapping[str, nn.Module]:
        return {**fresh(model, shape), "further": nn.Linear(1, 1)}

    with pytest.raises(ArtifactError, match=r"lacks added_further.weight. Train the reader again"):
        train_joint(config, replace(parts, reader=filled_modules(more, reader)), ParallelConfig(), tmp_path)


class Best:
    """Finds the first documents for every question."""

    def search(self, questions: Sequence[str], k: int) -> NDArray[np.int64]:
        return np.array([[0, 1, 2][:k]] * len(questions))


def test_recall_is_the_share_of_questions_with_an_answer_among_the_first_documents(world: World) -> None:
    asked = [replace(world.valid[0], answers=("town0",)), replace(world.valid[1], answers=("nothing",))]
    documents = QuestionDocuments(
        [replace(asked[0], contexts=tuple(Context(title="", text=text) for text in ("a", "b", "in town0 ,")))]
    )
    assert answer_recall(searched(Best(), asked, documents, 3)) == {"top_1": 0.0, "top_3": 0.5}


def test_blank_documents_of_questions_are_left_out_and_counted(tmp_path: Path) -> None:
    contexts = (Context("", " ", "1"), Context("", "text", "2"), Context("title", "", "3"), Context("", " ", "1"))
    found = open_documents(
        DataConfig(), tmp_path, [Question(id="0", question="q", answers=("a",), contexts=contexts)], 2
    )
    assert [(one.document_id, one.row) for one in found.at(range(len(found)))] == [("2", 0), ("3", 1)]
    assert found.blank == 1
