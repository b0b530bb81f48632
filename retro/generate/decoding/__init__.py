"""Decoding with caches: keys, values and encoded neighbors of what was read are kept, never computed again.

rows.py        the open sequences, and what of each is known beside its caches
batch.py       one call's new tokens, packed, and which cache entries each attends to
knowledge.py   documents as keys and values, which all tokens of a row attend to
chunks.py      which neighbors each new token attends to, and which chunks the encoder is run for
cache.py       keys and values by slot, and the states that the encoder is conditioned on
attention.py   self-attention and cross-attention of a decoder layer over its caches
stack.py       the decoder layers of this pipeline stage
decoder.py     `request.Decoder`, and what is sent between pipeline stages
"""
