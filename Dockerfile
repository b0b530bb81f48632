# Retro on NVIDIA GPUs. The base image brings torch, CUDA, NCCL, Apex and Transformer Engine, built for each other; this
# adds the toolkit and Faiss for GPUs, and replaces none of them.
#   docker/build.sh gpu              build it
#   docker/run.sh gpu                what it finds on this machine (retro doctor)
#   docker/run.sh gpu retro run …    a command, in the folder where it is called
ARG TAG=25.11-py3
FROM nvcr.io/nvidia/pytorch:${TAG}

SHELL ["/bin/bash", "-euo", "pipefail", "-c"]

# The base image binds pip to a file of its own versions, older than what is needed here. Empty means unset to pip.
ENV PIP_CONSTRAINT="" \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1

RUN useradd --create-home --uid 10001 retro

WORKDIR /opt/instruct-retro
COPY locks locks
COPY pyproject.toml README.md LICENSE ./
COPY retro retro
COPY tools tools

# What the image has built for its CUDA stays: torch, triton, numpy and setuptools are not in the lock, and of the rest a
# package that the image has in another version is replaced only if that does not change those.
RUN python -m pip list --format=freeze \
      | grep -iE '^(torch|torchvision|triton|pytorch-triton|apex|transformer[-_]engine|flash[-_]attn|numpy)==' \
      > before.txt \
    && python -m pip install --no-deps --only-binary :all: --require-hashes --requirement locks/gpu.txt \
    && python -m pip install --no-deps --no-build-isolation . \
    && python -m pip list --format=freeze \
      | grep -iE '^(torch|torchvision|triton|pytorch-triton|apex|transformer[-_]engine|flash[-_]attn|numpy)==' \
      | diff before.txt - \
    && rm before.txt

# No work of ours needs root. docker/run.sh puts the caller's own user in its place, so that runs/ belongs to the caller.
USER 10001
WORKDIR /workspace
CMD ["retro", "doctor"]
