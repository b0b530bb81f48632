"""The model card: what a stranger must know of an exported model, from the run's files and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from retro import __version__
from retro.interop import card_sections
from retro.interop.export_files import CopiedTokenizer
from retro.interop.run_facts import Facts
from retro.model.sizes import SIZES

_OPEN = {
    "tokenizer.json": (
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        "encode, decode = partial(tokenizer.encode, add_special_tokens=False), tokenizer.decode",
    ),
    "tokenizer.model": (
        "from sentencepiece import SentencePieceProcessor\nfrom transformers import AutoModelForCausalLM",
        'tokenizer = SentencePieceProcessor(model_file=f"{folder}/tokenizer.model")',
        "encode, decode = tokenizer.encode, tokenizer.decode",
    ),
}
_PLAIN = """
{imports}

folder = "."  # where this file lies
model = AutoModelForCausalLM.from_pretrained(folder{options})
{tokenizer}
{encode}

ids = torch.tensor([encode("The river")])
text = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20)
print(decode(text[0].tolist()))
"""
_READING = """
{imports}

folder = "."  # where this file lies
model = AutoModelForCausalLM.from_pretrained(folder{options})
{tokenizer}
{encode}

passages = ["First passage to read.", "Second passage to read."]
prompt = encode("Question: What is there to read? Answer:")
chunk, width = model.config.chunk_length, model.config.retrieved_length

# Tokens read the passages of a chunk from its last token on, so the prompt is padded to end where a chunk ends.
pad = -len(prompt) % chunk
ids = torch.tensor([[0] * pad + prompt])
mask = torch.tensor([[0] * pad + [1] * len(prompt)])
neighbors = torch.zeros(1, len(passages), width, dtype=torch.long)
neighbor_mask = torch.zeros(1, len(passages), width, dtype=torch.bool)
for row, passage in enumerate(passages):
    tokens = encode(passage)[:width]
    neighbors[0, row, : len(tokens)] = torch.tensor(tokens)
    neighbor_mask[0, row, : len(tokens)] = True

given = {{"attention_mask": mask, "neighbors": neighbors, "neighbor_mask": neighbor_mask}}
answer = model.generate(ids, max_new_tokens=20, **given)
print(decode(answer[0, ids.size(1) :].tolist()))
"""


def example(tokenizer: CopiedTokenizer | None, *, reads: bool, own_code: bool) -> str:
    """A block of Python.

    Args:
        tokenizer: What is in the folder; None gives an example on token ids.
        reads: Whether the model reads neighbors.
        own_code: Whether the folder brings its modelling file.
    """
    imports, opened, encode = "from transformers import AutoModelForCausalLM", "", ""
    if tokenizer is not None:
        imports, opened, encode = _OPEN[tokenizer.file]
    else:
        encode = "encode, decode = (lambda text: [1, 2, 3]), print  # the folder holds no tokenizer"
    ahead = "import torch\n" + imports
    if "partial(" in encode:
        ahead = "from functools import partial\n\n" + ahead
    filled = (_READING if reads else _PLAIN).format(
        imports=ahead,
        options=", trust_remote_code=True" if own_code else "",
        tokenizer=opened,
        encode=encode,
    )
    return f"```python{filled}```"


CARD = "README.md"
SETTINGS = "run.yaml"


def write_card(facts: Facts, tokenizer: CopiedTokenizer | None, *, decoder_only: bool, architecture: str) -> str:
    """The text of `README.md`.

    Args:
        facts: What the run's files say.
        tokenizer: What is in the folder, or None.
        decoder_only: Whether encoder and cross-attention were left out.
        architecture: The class that transformers opens the folder with.
    """
    reads = facts.info.shape.model.retrieval and not decoder_only
    own_code = architecture == "RetroForCausalLM"
    parts = [
        _head(facts, own_code, tokenizer),
        _summary(facts, architecture, decoder_only),
        "## Use\n\n" + _use_notes(own_code, reads, tokenizer) + example(tokenizer, reads=reads, own_code=own_code),
        "## Network\n\n" + card_sections.network(facts, decoder_only=decoder_only),
        "## Data\n\n" + card_sections.data(facts),
        "## Retrieval\n\n" + card_sections.retrieval(facts),
        "## Training\n\n" + card_sections.training(facts),
        "## Results\n\n" + _results(facts, decoder_only),
        "## How it was made\n\n" + _commands(facts),
    ]
    return "\n\n".join(parts) + "\n"


def _head(facts: Facts, own_code: bool, tokenizer: CopiedTokenizer | None) -> str:
    tags = ["instruct-retro", "retro", "retrieval-augmented"] if own_code else ["instruct-retro"]
    front: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": tags}
    if tokenizer is not None and facts.info.shape.model.size not in SIZES:
        # The weights began as those of the folder whose tokenizer this is.
        known = tokenizer.conventions
        front |= dict(known.license) | ({"base_model": known.base_model} if known.base_model else {})
    name = " / ".join(filter(None, [facts.run_name, facts.training.name]))
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# {name}"


def _summary(facts: Facts, architecture: str, decoder_only: bool) -> str:
    model = facts.info.shape.model
    tuned = " tuned on instructions" if facts.training.tuned_from is not None else ""
    if not model.retrieval:
        kind = f"A GPT{tuned}."
    elif decoder_only:
        kind = (
            f"The decoder of a Retro{tuned}, without its encoder and cross-attention: it computes what the Retro "
            "computes when it is given no neighbors."
        )
    else:
        kind = f"A Retro{tuned}: a language model that reads retrieved passages while it writes (arXiv:2112.04426)."
    return f"{kind} Opens in transformers as `{architecture}`. Exported with instruct-retro {__version__}."


def _use_notes(own_code: bool, reads: bool, tokenizer: CopiedTokenizer | None) -> str:
    notes = []
    if own_code:
        notes.append(
            "`modeling_retro.py` needs torch and transformers alone. It is the toolkit's plain reference: it keeps no "
            "cache between the steps of a generation and loops over chunks and neighbors, so it is slow."
        )
    if reads:
        notes.append("The chunk database and its index are not in this folder: passages come from who calls the model.")
    if tokenizer is None:
        notes.append("The folder holds no tokenizer: none was found beside the checkpoint.")
    elif not tokenizer.opens_in_transformers:
        notes.append(
            "The tokenizer is a SentencePiece model, opened with the `sentencepiece` package. What AutoTokenizer would "
            "make of it may give other ids."
        )
    if tokenizer is not None and tokenizer.conventions.chat_template:
        notes.append(
            "The folder has the chat template of the model that it began with: `tokenizer.apply_chat_template`. A text "
            "that spells a special token is that token in transformers; in the toolkit it is text, unless the template "
            "writes it."
        )
    return "".join(f"{note}\n\n" for note in notes)


def _results(facts: Facts, decoder_only: bool) -> str:
    of_whole = "These were measured on the whole model, encoder included, not on this decoder." if decoder_only else ""
    measured = facts.info.shape.model.retrieval and (facts.perplexity or facts.scores)
    found = [of_whole if measured else "", card_sections.perplexity(facts), card_sections.answers(facts)]
    return "\n\n".join(filter(None, found))


def _commands(facts: Facts) -> str:
    settings = run_settings(facts)
    if not settings:
        return "The run's settings are not known here."
    stages: list[str] = [name for name in ("corpus", "db", "index", "neighbors") if name in settings]
    if "model" in settings:
        stages.append("pretrain")
    stages += [name for name in ("sft", "generate", "evaluate") if name in settings]
    lines = "\n".join(f"retro {name} {SETTINGS}" for name in stages)
    return (
        f"`{SETTINGS}` holds the settings that the run's finished stages recorded; paths in it are the run's own. The "
        f"run does not record its command lines; these commands, in this order, run the same stages with the same "
        f"settings:\n\n```\n{lines}\n```"
    )


def run_settings(facts: Facts) -> dict[str, Any]:
    """The settings of the stages that belong to the checkpoint, as a run's YAML file has them."""
    stages = facts.stages
    found: dict[str, Any] = {
        name: dict(stages[name].config) for name in ("corpus", "db", "index", "neighbors") if name in stages
    }
    if "pretrain" in stages:
        found |= {name: stages["pretrain"].config[name] for name in ("model", "train", "pretrain")}
    if "perplexity" in stages:
        found["perplexity"] = stages["perplexity"].config["perplexity"]
    if "sft" in facts.training.config:
        found["sft"] = facts.training.config["sft"]
    usual: Mapping[str, Any] = facts.scores.get("", {})
    return found | {name: usual[name] for name in ("generate", "evaluate") if name in usual}
