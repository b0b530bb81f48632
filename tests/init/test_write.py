"""The text of a YAML file from choices."""

from __future__ import annotations

import yaml

from retro.init.corpus_choices import Choice
from retro.init.run import as_yaml


def test_sections_nest_and_reasons_stand_beside_or_above() -> None:
    text = as_yaml(
        ["What it is."],
        [
            Choice(setting="run_dir", value="runs/a", why="here"),
            Choice(setting="corpus.sources", value=[{"name": "a", "path": "it's: #1"}], why="one source"),
            Choice(setting="corpus.split", value=[0.9, 0.05, 0.05], why=""),
            Choice(setting="corpus.tokenizer.vocab_size", value=512, why="long " * 30),
            Choice(setting="index.embedder", value={"kind": "hashing"}, why="quick"),
        ],
    )
    assert text.splitlines()[:9] == [
        "# What it is.",
        "run_dir: runs/a  # here",
        "",
        "corpus:",
        "  # one source",
        "  sources:",
        "    - {name: a, path: 'it''s: #1'}",
        "  split: [0.9, 0.05, 0.05]",
        "  tokenizer:",
    ]
    assert text.splitlines()[9].startswith("    # long long")
    assert max(map(len, text.splitlines())) <= 120
    assert yaml.safe_load(text) == {
        "run_dir": "runs/a",
        "corpus": {
            "sources": [{"name": "a", "path": "it's: #1"}],
            "split": [0.9, 0.05, 0.05],
            "tokenizer": {"vocab_size": 512},
        },
        "index": {"embedder": {"kind": "hashing"}},
    }


def test_a_reason_cannot_end_its_comment() -> None:
    text = as_yaml(["a\nb: 1"], [Choice(setting="run_dir", value="x", why="of a\nfile: y")])
    assert yaml.safe_load(text) == {"run_dir": "x"}
