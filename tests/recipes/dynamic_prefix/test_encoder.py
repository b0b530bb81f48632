"""The knowledge encoder: given, or fresh of some sizes; its files; documents compressed to so many vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.recipes.dynamic_prefix.config import PrefixConfig
from retro.recipes.dynamic_prefix.training.encoder import freeze_layers, open_encoder
from retro.recipes.dynamic_prefix.training.encoder_files import INITIAL, known_config, open_tokenizer, prepare_encoder
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


def test_a_model_that_does_not_say_where_its_layers_are_cannot_be_frozen_by_them(tmp_path: Path) -> None:
    encoder = opened(tmp_path)
    encoder.model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="Linear does not say where its layers are"):
        freeze_layers(encoder, 1)
