"""Small files in the schemas of the public data sets, written by hand."""

from __future__ import annotations

from typing import Any

ALPACA = [
    {"instruction": "Name a colour.", "input": "", "output": "Red."},
    {"instruction": "Add the numbers.", "input": "2 and 3", "output": "5"},
]

DOLLY = [
    {
        "instruction": "When did the airline begin?",
        "context": "The airline began in 2000.",
        "response": "In 2000.",
        "category": "closed_qa",
    },
    {"instruction": "Which is a fish?", "context": "", "response": "Tope", "category": "classification"},
]

SHAREGPT = [
    {
        "id": "aB3x_0",
        "conversations": [
            {"from": "human", "value": "Hi"},
            {"from": "gpt", "value": "Hello."},
            {"from": "human", "value": "Who wrote it?"},
            {"from": "gpt", "value": "Ada."},
            {"from": "human", "value": "Thanks"},
        ],
    }
]

CHAT = [
    {
        "prompt": "Hi",
        "prompt_id": "f0e37e9f7800261167ce91143f98f511",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": [{"type": "text", "text": "Hello."}, {"type": "text", "text": "Well?"}]},
        ],
    }
]


def message(name: str, role: str, text: str, rank: int | None, *replies: dict[str, Any]) -> dict[str, Any]:
    """A message of an OpenAssistant tree."""
    return {
        "message_id": name,
        "parent_id": None,
        "text": text,
        "role": role,
        "lang": "en",
        "review_count": 3,
        "deleted": False,
        "rank": rank,
        "synthetic": False,
        "replies": list(replies),
    }


OASST = [
    {
        "message_tree_id": "root",
        "tree_state": "ready_for_export",
        "prompt": message(
            "root",
            "prompter",
            "What is a monopsony?",
            None,
            message("second", "assistant", "No idea.", 1),
            message(
                "best",
                "assistant",
                "One buyer.",
                0,
                message("more", "prompter", "An example?", None, message("last", "assistant", "A mill town.", None)),
            ),
        ),
    }
]

SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "New_York",
            "paragraphs": [
                {
                    "context": "New York has five boroughs.",
                    "qas": [
                        {
                            "id": "56be",
                            "question": "How many boroughs?",
                            "answers": [{"text": "five", "answer_start": 13}, {"text": "five", "answer_start": 13}],
                            "is_impossible": False,
                        },
                        {
                            "id": "5ad3",
                            "question": "How many rivers?",
                            "answers": [],
                            "plausible_answers": [{"text": "five", "answer_start": 13}],
                            "is_impossible": True,
                        },
                    ],
                },
                {"context": "It is by the sea.", "qas": []},
            ],
        }
    ],
}

SQUAD_ROWS = [
    {
        "id": "56be",
        "title": "New_York",
        "context": "New York has five boroughs.",
        "question": "How many boroughs?",
        "answers": {"text": ["five", "five"], "answer_start": [13, 13]},
    },
    {
        "id": "5ad3",
        "title": "New_York",
        "context": "New York has five boroughs.",
        "question": "How many rivers?",
        "answers": {"text": [], "answer_start": []},
    },
]

NQ_OPEN = [{"question": "who wrote it", "answer": ["Ada", "Ada Lovelace"]}]

TRIVIAQA = {
    "Data": [
        {
            "Question": "Who was born first?",
            "QuestionId": "tc_1",
            "QuestionSource": "http://example.org",
            "Answer": {
                "Value": "Ada",
                "Aliases": ["Ada", "Ada Lovelace", "Countess of Lovelace"],
                "NormalizedAliases": ["ada", "ada lovelace", "countess of lovelace"],
                "NormalizedValue": "ada",
                "Type": "WikipediaEntity",
            },
            "EntityPages": [{"DocSource": "TagMe", "Filename": "Ada.txt", "Title": "Ada"}],
            "SearchResults": [],
        }
    ],
    "Domain": "Web",
    "VerifiedEval": False,
    "Version": 1.0,
}

HOTPOTQA = [
    {
        "_id": "5a7a",
        "question": "Who designed the engine of her notes?",
        "answer": "Babbage",
        "supporting_facts": [["Ada", 0], ["Engine", 1]],
        "context": [
            ["Ada", ["Ada wrote notes.", " On an engine."]],
            ["Sea", ["It is wide."]],
            ["Engine", ["It computes.", " Babbage designed it."]],
            ["Empty", []],
        ],
        "type": "bridge",
        "level": "hard",
    }
]

BOOLQ = [
    {"question": "is the sea wide", "title": "Sea", "answer": True, "passage": "It is wide."},
    {"question": "is the sea dry", "title": "Sea", "answer": False, "passage": "It is wide."},
]

CONFLICTQA = [
    {
        "question": "What is Ada's occupation?",
        "popularity": 12,
        "ground_truth": ["mathematician", "scientist"],
        "memory_answer": "poet",
        "parametric_memory": "Ada was a poet of her time.",
        "counter_answer": "mathematician",
        "counter_memory": "Ada worked as a mathematician.",
        "parametric_memory_aligned_evidence": "Poems by Ada are known.",
        "counter_memory_aligned_evidence": "Ada wrote notes on an engine.",
    },
    {
        "question": "Could Ada have met Babbage?",
        "popularity": 7,
        "ground_truth": ["True"],
        "memory_answer": "Ada could not have met Babbage.",
        "parametric_memory": "They lived far apart.",
        "counter_answer": "Ada could have met Babbage.",
        "counter_memory": "Both lived in London.",
        "parametric_memory_aligned_evidence": "Ada was born in 1815.",
        "counter_memory_aligned_evidence": "Babbage was born in 1791.",
    },
]

NQ_SWAP = [
    {
        "question": "who wrote the notes",
        "org_context": "The notes are by Ada Lovelace.",
        "org_answer": ["Ada Lovelace", "Lovelace"],
        "sub_context": "The notes are by Mary Shelley.",
        "sub_answer": ["Mary Shelley"],
    }
]

FAITHEVAL_UNANSWERABLE = [
    {"qid": "u1", "question": "Who wrote the notes?", "context": "There are notes.", "answers": ["Ada"]},
    {"qid": "u2", "question": "Who built it?", "context": "It was built.", "answers": []},
]

FAITHEVAL_INCONSISTENT = [
    {
        "qid": "i1",
        "question": "Who wrote the notes?",
        "context": "Document: Ada did. Document: Mary did.",
        "answers": ["Ada", "Mary"],
    }
]

FAITHEVAL_COUNTERFACTUAL = [
    {
        "id": "c1",
        "question": "What is the moon made of?",
        "context": "The moon is made of marshmallows, as probes found.",
        "choices": {"label": ["A", "B"], "text": ["rock", "marshmallows"]},
        "answerKey": "B",
        "answer": "marshmallows",
    }
]
