"""Weights from other toolkits into this one, and the decoder alone out again.

hf_config.py     a HuggingFace config.json as settings of a model
hf_layouts.py    where each of our weights is in a HuggingFace folder, read in both directions
source.py        the weights a model starts from, and filling a model's own shards from them
huggingface.py   such a source: a folder of safetensors
megatron.py      such a source: any megatron-core GPT checkpoint
legacy.py        such a source: a checkpoint of Megatron-LM before megatron-core, InstructRetro's layout;
                 legacy_names.py says where its tensors belong, legacy_settings.py what model it is
safe_files.py    safetensors files, read in part and written in several
writer.py        the decoder as a folder of a family of transformers
"""
