"""The recipe: its steps in order, each a thin call of the module that does it."""

from __future__ import annotations

from retro.recipes.base import Step
from retro.recipes.multi_hop import convert, create
from retro.recipes.multi_hop.config import MultiHopConfig


class MultiHop:
    """Multi-hop questions by decomposition, after qa_expert (Mai 2023)."""

    name = "multi_hop"
    summary = "Multi-hop questions by decomposition (qa_expert, Mai 2023): one look-up for each sub-question"
    config = MultiHopConfig
    special_tokens = ()
    steps = (
        Step(
            name="convert",
            summary="SQuAD, BoolQ, DROP and MuSiQue become items with full answers.",
            run=convert.run,
            settings=("convert", "prompts"),
            inputs=convert.inputs,
            wanted=lambda settings: settings.convert.is_given,
        ),
        Step(
            name="create",
            summary="A teacher makes multi-hop questions with paragraphs and answers.",
            run=create.run,
            settings=("create", "prompts"),
            inputs=create.inputs,
            wanted=lambda settings: settings.create.categories is not None,
        ),
    )
