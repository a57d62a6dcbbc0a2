# An image that runs everything: the CPU by default, an NVIDIA GPU by another index of PyTorch's wheels, which bring CUDA along.
# How to use it: docs/docker.md. tests/bare_debian.sh runs these lines without Docker.
FROM debian:trixie-slim

# Of PyTorch's indices, such as https://download.pytorch.org/whl/cu130.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# Debian has one version of each at a time, so none is pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

# run_all.sh and run_tests.sh use the active environment if it has all of requirements.txt. PyTorch's cache and the like ask for
# a home and a name, also where --user gives the process a number that nobody has.
ENV VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:/usr/bin:/bin HOME=/tmp USER=cxr PYTHONUNBUFFERED=1

WORKDIR /cxr
COPY requirements.txt .
# Both of one index; what the ranges of requirements.txt allow is what is tested.
# hadolint ignore=DL3013
RUN python3 -m venv "$VIRTUAL_ENV" \
    && pip install --no-cache-dir --index-url "$TORCH_INDEX" torch torchvision \
    && pip install --no-cache-dir -r requirements.txt

COPY . .
RUN mkdir -p input working && chmod a+rwx input working

# nobody
USER 65534
ENTRYPOINT ["bash", "run_all.sh"]
CMD ["--demo"]
