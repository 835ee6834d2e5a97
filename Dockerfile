# One image for every process of the distributed mode; docker-compose.yml says which process a container runs.
FROM python:3.13-slim

ENV PIP_CACHE_DIR=/var/cache/pip \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1

# What torch compiles, on a GPU as on a CPU, it compiles by way of these, in the running container.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ gcc libc6-dev \
    && rm --recursive --force /var/lib/apt/lists/*

# A new volume takes over the owner of the folder that it is mounted on.
RUN useradd --uid 10001 --home-dir /data --no-create-home graft && install --directory --owner graft --group graft /data

# Apart from what the base image's own Python holds, which pip could not always replace.
RUN python -m venv /opt/graft
ENV PATH=/opt/graft/bin:$PATH

# Some gigabytes, torch with CUDA above all: a layer of its own, so that a change of code leaves it alone.
COPY requirements/distributed.txt /tmp/requirements.txt
RUN --mount=type=cache,target=/var/cache/pip \
    pip install --require-hashes --requirement /tmp/requirements.txt

# Mounted, not copied: a second copy in the working folder would be imported instead of the installed one.
RUN --mount=type=bind,target=/source --mount=type=cache,target=/var/cache/pip \
    pip install --no-deps /source

# Threads that spin while they wait for each other make a machine crawl whose cores others want too.
ENV GRAFT_DATA_DIR=/data \
    OMP_WAIT_POLICY=PASSIVE \
    TORCH_HOME=/data/torch
VOLUME /data
WORKDIR /data
USER graft

EXPOSE 8000
CMD ["python", "-m", "app.server", "--host", "0.0.0.0", "--port", "8000"]
