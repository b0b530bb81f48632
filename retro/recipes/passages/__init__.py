"""Passages with an id, a title and a text: read on demand, embedded in shards, searched, put beside questions.

The formats are DPR's table of passages and the embedding shards of Contriever's tools, which Self-RAG, InstructRAG and
multi-hop recipes share.
"""
