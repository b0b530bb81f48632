"""One YAML file is one run: overrides, typos, and what the command line prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from retro.common.errors import ConfigError, DataError
from retro.run.config import RunConfig, as_yaml, load_run_config

CONFIGS = sorted((Path(__file__).parents[2] / "tools/retro/examples/configs").glob("*.yaml"))


def test_overrides_go_before_the_file_and_numbers_without_a_dot_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("train: {lr: 1.0e-3, steps: 7, warmup_steps: 0}\nrun_dir: runs/x\n")
    config = load_run_config(path, ["train.lr=3e-4", "db.chunk_length=32", "sft.train.lr=1e-5"])
    assert (config.train.lr, config.train.steps, config.db.chunk_length) == (3e-4, 7, 32)
    assert (config.sft.train.lr, config.sft.train.global_batch) == (1e-5, 128)
    assert config.run_dir == Path("runs/x")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.lrr=1", "train.lrr = 1: is not a setting; did you mean 'lr'"),
        ("trian.lr=1", "trian = .*: is not a setting; did you mean 'train'"),
        ("train.steps=many", "train.steps = 'many': needs a valid integer"),
        ("train.lr=-1", "train.lr = -1: needs greater than 0"),
        ("train.lr.x=1", "is not a setting|needs a valid number|to be a section"),
        ("parallel.virtual_pipeline=2", "parallel.virtual_pipeline = 2: needs parallel.pipeline above 1"),
        ("parallel.sequence=true", "parallel.sequence = True: needs parallel.tensor above 1"),
        ("parallel.context=2", "parallel.context = 2: needs 1: Retro does not split sequences over ranks"),
        ("corpus.split=[0.5,0.1,0.1]", "corpus.split = .* sum to 1"),
        ("nonsense", "override = 'nonsense': needs the form section.setting=value"),
        ("train.lr=2001-99-99", "train.lr = '2001-99-99': needs a valid number"),
        ("train.lr=[1", "train.lr = '.1': needs a YAML value"),
        ("train.lr=!!binary aGk=", "train.lr = '!!binary aGk=': needs a YAML value"),
        ("a." * 2000 + "b=1", "override = 'a.a.*: needs a name of at most 50 parts"),
        ('run_dir="a\\0b"', "run_dir = 'a.x00b': needs a path without NUL"),
        ("train=3", "train = 3: needs"),
        ("train.steps=true", "train.steps = True: needs a number, which true and false are not"),
        ("corpus.split=[true, 0, 0]", "corpus.split = .*: needs a number, which true and false are not"),
        ("run_dir=", "run_dir = None: needs a path, as text"),
        ("run_dir=12", "run_dir = 12: needs a path, as text"),
        ('run_dir=""', "run_dir = '': needs a path, which no text at all is not"),
        (".train=1", "override = '.train=1': needs the form section.setting=value"),
        ("tr\udcffain.steps=1", "override = .*: needs the form section.setting=value"),
    ],
)
def test_a_wrong_override_is_answered_with_what_was_needed(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_run_config(None, [override])


def test_an_empty_section_is_an_empty_one_and_takes_overrides(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("train:\nsft:\n  train:\n")
    assert load_run_config(path, []) == RunConfig()
    config = load_run_config(path, ["train.steps=7", "train.warmup_steps=0", "sft.train.lr=1e-5"])
    assert (config.train.steps, config.sft.train.lr) == (7, 1e-5)


def test_home_is_filled_in_wherever_a_path_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    path = tmp_path / "run.yaml"
    path.write_text("run_dir: ~/runs\ncorpus: {sources: [{name: a, path: ~/texts}], tokenizer: {path: '~'}}\n")
    config = load_run_config(path, ["generate.questions=[~/a.json, b.json]", "pretrain.start_from=~nobody-here/x"])
    assert config.run_dir == Path("/home/me/runs")
    assert (config.corpus.sources[0].path, config.corpus.tokenizer.path) == (Path("/home/me/texts"), Path("/home/me"))
    assert config.generate.questions == (Path("/home/me/a.json"), Path("b.json"))
    assert config.pretrain.start_from == Path("~nobody-here/x")


def test_a_date_stays_the_text_that_was_typed() -> None:
    assert load_run_config(None, ["run_dir=2001-01-01", "generate.name=1e"]).run_dir == Path("2001-01-01")


def test_only_numbers_are_read_as_numbers() -> None:
    assert load_run_config(None, ["generate.name=infinity"]).generate.name == "infinity"


def test_a_typo_in_a_file_names_the_file_and_the_nearest_setting(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: {hidden_sise: 64}\n")
    with pytest.raises(DataError, match=r"run.yaml: model.hidden_sise = 64: .*did you mean 'hidden_size'"):
        load_run_config(path, [])


@pytest.mark.parametrize(
    ("text", "words"),
    [("a: [1", "is not YAML"), ("- 1\n- 2\n", "holds a list"), ("1: 2\n", "1 = 2: is not a setting")],
)
def test_a_file_that_is_no_config_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises((DataError, ConfigError), match=words):
        load_run_config(path, [])
    with pytest.raises(DataError, match="no such config file"):
        load_run_config(tmp_path / "absent.yaml", [])


def test_the_resolved_config_reads_back_as_itself() -> None:
    config = load_run_config(None, ["model.size=843m", "train.lr=1e-5"])
    assert RunConfig(**yaml.safe_load(as_yaml(config))) == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_is_valid(path: Path) -> None:
    load_run_config(path, [])


def test_every_setting_has_a_docstring_in_the_schema() -> None:
    schema = RunConfig.model_json_schema()
    silent = [
        f"{name}.{setting}"
        for name, section in schema["$defs"].items()
        for setting, entry in section.get("properties", {}).items()
        if not entry.get("description") and "$ref" not in entry
    ]
    assert silent == []
    json.dumps(schema)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.warmup_steps=5000", "train.warmup_steps = 5000: needs fewer than steps = 1000"),
        ("sft.train.warmup_steps=5000", "sft.train.warmup_steps = 5000: needs fewer than steps = 1000"),
        ("sft.train.lora.rank=0", "sft.train.lora.rank = 0: needs greater than 0"),
        ("corpus.sources=[{name: a, pth: x}]", "corpus.sources.0.pth = 'x': is not a setting; did you mean 'path'?"),
        ("corpus.sources=[{name: a}]", "corpus.sources.0.path = None: needs to be given, or built_in, and not both"),
        ("database.version=x", "database.version = 'x': needs a valid integer"),
        (
            "sft.data.sets=[{name: a, published: {samples: 5, epochs: 0}}]",
            "sft.data.sets.0.published.epochs = 0: needs",
        ),
        ("train.lora.rnk=1", "train.lora.rnk = 1: is not a setting; did you mean 'rank'?"),
        ("train=3", "train = 3: needs a valid dictionary"),
    ],
)
def test_an_error_names_the_setting_as_it_is_typed(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_run_config(None, [override])
    assert str(caught.value).startswith(message)


def test_a_name_with_a_number_is_an_item_of_a_list(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("corpus: {sources: [{name: a, path: x}, {name: b, path: y}]}")
    sources = load_run_config(path, ["corpus.sources.1.path=z"]).corpus.sources
    assert [str(source.path) for source in sources] == ["x", "z"]
    for name in ("2", "-1", "b", "²", "1" * 30):
        with pytest.raises(
            ConfigError, match=rf"corpus.sources.{name}.path = '{name}': needs the number of an item, 0"
        ):
            load_run_config(path, [f"corpus.sources.{name}.path=z"])


def test_yaml_for_the_terminal_steers_nothing_and_reads_back() -> None:
    config = load_run_config(None, ['corpus.sources=[{name: a, path: "x/\\u202e\\u9b54[/b]"}]'])
    text = as_yaml(config)
    assert "\u202e" not in text
    assert RunConfig(**yaml.safe_load(text)) == config
    assert "魔" in as_yaml(load_run_config(None, ["corpus.sources=[{name: a, path: 魔}]"]))


@pytest.mark.parametrize("override", ["cor\npus.x=1", "corpus.so\nurces=1", 'corpus={"a\\nb": 1}'])
def test_a_key_with_a_line_break_is_named_on_one_line(override: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a setting") as caught:
        load_run_config(None, [override])
    assert "\n" not in str(caught.value)
    assert "\\n" in str(caught.value)
    (tmp_path / "run.yaml").write_text('corpus: {"sou\\nrces": 1}\n')
    with pytest.raises(DataError) as in_file:
        load_run_config(tmp_path / "run.yaml", [])
    assert r"run.yaml: corpus.sou\nrces = 1: is not a setting" in str(in_file.value)
