"""The knowledge encoder: given, or fresh of some sizes; its files; documents compressed to so many vectors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.index.config import EmbedderConfig
from retro.recipes.dynamic_prefix.config import PrefixConfig
from retro.recipes.dynamic_prefix.joint.retriever import Tower
from retro.recipes.dynamic_prefix.training.encoder import open_encoder
from retro.recipes.dynamic_prefix.training.encoder_files import INITIAL, known_config, open_tokenizer, prepare_encoder
from tests.index.models import roberta_folder
from tests.recipes.dynamic_prefix import fact_world
from tests.recipes.dynamic_prefix.tiny_prefix import prefix_config, write_encoder

DOCUMENTS = ("the garden was laid out in 1650", "the engine of the market", "a river and an island", "gardens")


def opened(folder: Path, **settings: Any) -> Any:
    torch.manual_seed(1)
    config = prefix_config(**settings)
    return open_encoder(write_encoder(folder, config), config, initial=True).eval()


def ids_and_mask(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, 1, n] documents of some lengths, a question each."""
    longest = max(lengths)
    ids_BKn = torch.arange(1, longest + 1).expand(len(lengths), 1, longest).contiguous()
    return ids_BKn, torch.arange(longest) < torch.tensor(lengths)[:, None, None]


def test_states_are_one_for_each_token_static_ones_first(tmp_path: Path) -> None:
    encoder = opened(tmp_path, static=2)
    ids_BKn, real_BKn = ids_and_mask(4, 2, 0)
    states_nBE, real_Bn = encoder(ids_BKn, real_BKn)
    assert states_nBE.shape == (6, 3, 8)
    assert real_Bn.tolist() == [[True] * 6, [True] * 4 + [False] * 2, [True] * 2 + [False] * 4]
    assert torch.equal(states_nBE[:2, 1], encoder.static_sE)
    assert not states_nBE[4:, 1].any()


@pytest.mark.parametrize("queries", [1, 4, 10, 64])
def test_learned_queries_give_as_many_vectors_for_any_length(tmp_path: Path, queries: int) -> None:
    encoder = opened(tmp_path, compress=queries)
    states_nBE, real_Bn = encoder(*ids_and_mask(5, 1, 0))
    assert states_nBE.shape == (queries, 3, 8)
    assert real_Bn.all(dim=1).tolist() == [True, True, False]
    assert not states_nBE[:, 2].any()
    assert torch.isfinite(states_nBE).all()


@pytest.mark.parametrize("compress", [None, 3])
def test_a_document_is_encoded_alike_alone_and_in_a_batch(tmp_path: Path, compress: int | None) -> None:
    encoder = opened(tmp_path, compress=compress)
    together, real = encoder(*ids_and_mask(6, 3))
    alone, _ = encoder(*ids_and_mask(3))
    torch.testing.assert_close(together[real[1], 1], alone[:, 0], rtol=1e-6, atol=1e-6)


def test_documents_side_by_side_are_each_encoded_alone(tmp_path: Path) -> None:
    encoder = opened(tmp_path)
    ids_Kn = torch.tensor([[1, 2, 3], [4, 5, 0]])
    real_Kn = torch.tensor([[True, True, True], [True, True, False]])
    states_nBE, real_Bn = encoder(ids_Kn[None], real_Kn[None])
    each_KnE, _ = encoder.documents(ids_Kn, real_Kn)
    assert torch.equal(states_nBE[:, 0], each_KnE.flatten(0, 1))
    assert real_Bn.tolist() == [[True] * 5 + [False]]


def test_a_fresh_encoder_has_word_pieces_of_the_documents(tmp_path: Path) -> None:
    config = PrefixConfig.model_validate(
        {"encoder": {"layers": 1, "hidden_size": 16, "heads": 2, "vocab_size": 90}, "max_document_tokens": 5}
    )
    for name in ("one", "two"):
        prepare_encoder(tmp_path / name, config, DOCUMENTS, tmp_path)
    assert (tmp_path / "one" / "tokenizer.json").read_bytes() == (tmp_path / "two" / "tokenizer.json").read_bytes()
    tokens = open_tokenizer(tmp_path / "one", config)
    (short, long), cut = tokens.encode(["Garden", "the garden was laid out in 1650"])
    assert (cut, len(long)) == (1, 5)
    # [CLS] and [SEP] frame even what was cut.
    assert short[0] == long[0] == 2
    assert short[-1] == long[-1] == 3
    assert tokens.vocab_size <= 90
    encoder = open_encoder(tmp_path / "one", config, initial=True)
    assert encoder.width == 16
    assert encoder.tokenize(["Garden"]) == [short]
    assert known_config(tmp_path / "one") == config


def test_an_encoder_may_have_the_tokens_of_the_language_model(tmp_path: Path) -> None:
    fact_world.write_tokenizer(tmp_path / "lm")
    config = prefix_config(encoder={"vocabulary": "model"}, max_document_tokens=4)
    prepare_encoder(tmp_path / "encoder", config, (), tmp_path / "lm")
    encoder: Any = open_encoder(tmp_path / "encoder", config, initial=True)
    assert encoder.tokenize(["food of alan is soup ."]) == [[4, 5, 7, 6]]
    # Its token 0 has a row that learns.
    assert encoder.model.embeddings.word_embeddings.padding_idx is None


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of transformers, its pooler included."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer

    folder = tmp_path_factory.mktemp("given")
    made = PrefixConfig.model_validate({"encoder": {"layers": 2, "hidden_size": 16, "heads": 2, "vocab_size": 90}})
    prepare_encoder(folder / "fresh", made, DOCUMENTS, folder)
    settings = json.loads((folder / "fresh" / "config.json").read_text())
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(**settings))
    model.save_pretrained(str(folder / "bert"))
    words = Tokenizer.from_file(str(folder / "fresh" / "tokenizer.json"))
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    fast.save_pretrained(str(folder / "bert"))
    return folder / "bert"


def test_a_given_encoder_computes_what_it_computed(given: Path, tmp_path: Path) -> None:
    import transformers

    config = PrefixConfig.model_validate({"encoder": {"model": str(given)}})
    prepare_encoder(tmp_path / "encoder", config, (), tmp_path)
    encoder = open_encoder(tmp_path / "encoder", config, initial=True).eval()
    (ids,) = encoder.tokenize(["the garden of the island"])
    found, _ = encoder(torch.tensor([[ids]]), torch.ones(1, 1, len(ids), dtype=torch.bool))
    theirs = transformers.AutoModel.from_pretrained(str(given)).eval()
    expected = theirs(input_ids=torch.tensor([ids])).last_hidden_state
    torch.testing.assert_close(found[:, 0], expected[0])
    assert ids == transformers.AutoTokenizer.from_pretrained(str(given))("the garden of the island")["input_ids"]
    # Nobody asks its pooler, which would get no gradient.
    assert not any("pooler" in name for name, _ in encoder.named_parameters())


def test_documents_longer_than_a_given_encoder_reads_are_refused(given: Path, tmp_path: Path) -> None:
    config = PrefixConfig.model_validate({"encoder": {"model": str(given)}, "max_document_tokens": 300})
    with pytest.raises(ConfigError, match=r"max_document_tokens = 300: needs at most 256 tokens"):
        prepare_encoder(tmp_path / "encoder", config, (), tmp_path)


def test_weights_that_are_not_the_encoders_are_named(given: Path, tmp_path: Path) -> None:
    config = PrefixConfig.model_validate({"encoder": {"model": str(given)}})
    prepare_encoder(tmp_path / "encoder", config, (), tmp_path)
    settings = json.loads((tmp_path / "encoder" / "config.json").read_text())
    (tmp_path / "encoder" / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 3}))
    with pytest.raises(DataError, match=f"{INITIAL}: is not the encoder's weights"):
        open_encoder(tmp_path / "encoder", config, initial=True)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    config = prefix_config()
    write_encoder(tmp_path, config)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"cannot be loaded as a tokenizer\.json"):
        open_tokenizer(tmp_path, config)
    (tmp_path / "knowledge.json").write_text('{"prefix": {"documents": 0}}')
    with pytest.raises(ArtifactError, match="does not describe an encoder"):
        known_config(tmp_path)
    with pytest.raises(ArtifactError, match="is of an encoder made under other settings"):
        prepare_encoder(tmp_path, config, (), tmp_path)


SIZES: dict[str, Any] = {"vocab_size": 90, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
KINDS: dict[str, dict[str, Any]] = {
    "bert": SIZES | {"num_hidden_layers": 2, "max_position_embeddings": 40},
    "roberta": SIZES | {"num_hidden_layers": 2, "max_position_embeddings": 42, "pad_token_id": 1},
    "distilbert": {
        "vocab_size": 90, "dim": 16, "n_heads": 2, "hidden_dim": 32, "n_layers": 2, "max_position_embeddings": 40
    },
    "albert": SIZES | {"num_hidden_layers": 2, "embedding_size": 8, "max_position_embeddings": 40},
}  # fmt: skip


def encoder_like(kind: str, given: Path, folder: Path) -> Path:
    """A tiny encoder of a kind, with the words of the given one."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    settings = transformers.AutoConfig.for_model(kind, **KINDS[kind])
    transformers.AutoModel.from_config(settings).save_pretrained(str(folder))
    for file in given.glob("token*"):
        shutil.copy(file, folder)
    return folder


def of_model(folder: Path, trained: Any = "all", **settings: Any) -> PrefixConfig:
    return PrefixConfig.model_validate({"encoder": {"model": str(folder), "trained": trained}} | settings)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_the_last_layers_of_any_encoder_are_found(given: Path, tmp_path: Path, kind: str) -> None:
    config = of_model(encoder_like(kind, given, tmp_path / kind), 1, max_document_tokens=40)
    prepare_encoder(tmp_path / "encoder", config, (), tmp_path)
    encoder = open_encoder(tmp_path / "encoder", config, initial=True)
    trained = {name for name, one in encoder.named_parameters() if one.requires_grad}
    assert trained == {name for name, _ in encoder.named_parameters() if ".layer.1." in name}
    assert trained


@pytest.mark.parametrize(
    ("kind", "trained", "need"),
    [
        ("bert", 99, "needs at most 2, the layers of the encoder"),
        ("albert", 1, "needs to be all or none: AlbertModel has no list of layers"),
    ],
)
def test_layers_that_cannot_be_trained_are_refused_before_a_file_is_kept(
    given: Path, tmp_path: Path, kind: str, trained: int, need: str
) -> None:
    folder = encoder_like(kind, given, tmp_path / kind)
    with pytest.raises(ConfigError, match=rf"^recipe\.dynamic_prefix\.prefix\.encoder\.trained = {trained}: {need}"):
        prepare_encoder(tmp_path / "encoder", of_model(folder, trained, max_document_tokens=40), (), tmp_path)
    # With another setting it is made in the same place.
    config = of_model(folder, "none", max_document_tokens=40)
    prepare_encoder(tmp_path / "encoder", config, (), tmp_path)
    encoder = open_encoder(tmp_path / "encoder", config, initial=True)
    assert not any(one.requires_grad for one in encoder.model.parameters())


def test_more_layers_than_a_fresh_encoder_has_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"trained = 3: needs at most layers = 2"):
        prefix_config(encoder={"trained": 3})


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_longest_document_is_read_and_one_token_more_is_refused(given: Path, tmp_path: Path, kind: str) -> None:
    folder = encoder_like(kind, given, tmp_path / kind)
    config = of_model(folder, max_document_tokens=40)
    prepare_encoder(tmp_path / "encoder", config, (), tmp_path)
    encoder = open_encoder(tmp_path / "encoder", config, initial=True).eval()
    (ids,) = encoder.tokenize(["garden " * 60])
    assert len(ids) == 40
    states_nBE, _ = encoder(torch.tensor([[ids]]), torch.ones(1, 1, 40, dtype=torch.bool))
    assert torch.isfinite(states_nBE).all()
    with pytest.raises(
        ConfigError, match=r"^recipe\.dynamic_prefix\.prefix\.max_document_tokens = 41: needs at most 40 tokens"
    ):
        prepare_encoder(tmp_path / "longer", of_model(folder, max_document_tokens=41), (), tmp_path)


@pytest.mark.parametrize("kind", ["huggingface", "sentence_transformers"])
def test_a_retriever_that_is_trained_cuts_texts_to_what_it_reads(tmp_path: Path, kind: str) -> None:
    folder = roberta_folder(tmp_path / "roberta")
    tower = Tower(EmbedderConfig.model_validate({"kind": kind, "model": str(folder)}), str(folder), None)
    found = tower.encode(["the " * 90])
    assert found.ids_RT.shape == (1, 32)
    assert torch.isfinite(tower(torch.from_numpy(found.ids_RT), torch.from_numpy(found.marks_RT))).all()


def test_weights_that_are_cut_short_are_named(given: Path, tmp_path: Path) -> None:
    config = of_model(given)
    prepare_encoder(tmp_path / "encoder", config, (), tmp_path)
    file = tmp_path / "encoder" / INITIAL
    for length in (file.stat().st_size // 2, 4, 0):
        file.write_bytes(file.read_bytes()[:length])
        with pytest.raises(DataError, match=f"{INITIAL}: is not the encoder's weights"):
            open_encoder(tmp_path / "encoder", config, initial=True)


@pytest.mark.parametrize("most", [1, 2])
@pytest.mark.parametrize("fresh", [True, False])
def test_documents_need_room_within_their_frame(given: Path, tmp_path: Path, fresh: bool, most: int) -> None:
    def config(longest: int) -> PrefixConfig:
        sizes = {"layers": 1, "hidden_size": 16, "heads": 2, "vocab_size": 90}
        encoder = sizes if fresh else {"model": str(given)}
        return PrefixConfig.model_validate({"encoder": encoder, "max_document_tokens": longest})

    with pytest.raises(
        ConfigError, match=rf"^recipe\.dynamic_prefix\.prefix\.max_document_tokens = {most}: needs at least 3"
    ):
        prepare_encoder(tmp_path / "encoder", config(most), DOCUMENTS, tmp_path)
    prepare_encoder(tmp_path / "encoder", config(3), DOCUMENTS, tmp_path)
    assert len(open_tokenizer(tmp_path / "encoder", config(3)).encode([DOCUMENTS[0]])[0][0]) == 3


@pytest.mark.parametrize(
    ("layers", "need"), [([], "at least 1 item"), ([0, 0], "each layer once"), ([1, 0, 1], "each layer once")]
)
def test_a_prefix_is_read_by_at_least_one_layer_and_by_each_once(layers: list[int], need: str) -> None:
    with pytest.raises(ConfigError, match=rf"layers = .*{need}"):
        prefix_config(layers=layers)
    assert prefix_config(layers=[2, 0]).layers == (2, 0)
