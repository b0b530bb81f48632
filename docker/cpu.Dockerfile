# Retro on a CPU: the quickstart, the tests of a config, or a look into a run. The same exact versions as `make quickstart`.
#   docker/build.sh cpu
#   docker/run.sh cpu retro run /opt/instruct-retro/tools/retro/examples/configs/pystdlib.yaml
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1

RUN useradd --create-home --uid 10001 retro

# The CPU build of torch goes first and alone: left to the dependencies, pip would take the CUDA build.
WORKDIR /opt/instruct-retro
COPY locks locks
RUN python -m pip install --no-deps --index-url "${TORCH_INDEX}" "$(cat locks/torch.txt)" \
    && python -m pip install --no-deps --only-binary :all: --require-hashes --requirement locks/quickstart.txt

COPY pyproject.toml README.md LICENSE ./
COPY retro retro
COPY tools tools
RUN python -m pip install --no-deps --no-build-isolation . \
    && python -m pip check

USER 10001
WORKDIR /workspace
CMD ["retro", "doctor"]
