# Image without torch for building, verifying and inspecting shards.
#
#   docker build -f docker/pipeline.Dockerfile -t denseav-pipeline .
#   docker run --rm -v /data:/data denseav-pipeline pipelines.build config=configs/build/audioset.yaml source.root=/data/audioset out=/data/shards/train
#   docker run --rm -v /data:/data denseav-pipeline pipelines.verify /data/shards/train
#
# Runs as user 10001; --user sets another owner for the shards. requirements-build.lock includes s3fs for s3://; gs:// needs gcsfs, abfs:// adlfs.
# --build-arg BASE=... sets another base image with Python 3.11 or newer and pip.
ARG BASE=python:3.11.13-slim-bookworm

FROM ${BASE} AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE train.py denseav.py ./
COPY configs configs
COPY pipelines pipelines
COPY model model
COPY eval eval
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM ${BASE}
COPY requirements-build.lock /tmp/
# The image has no compiler: packages come as wheels only.
RUN pip install --no-cache-dir --only-binary=:all: --require-hashes -r /tmp/requirements-build.lock \
    && useradd --uid 10001 --create-home pipeline
COPY --from=wheel /wheels/*.whl /tmp/
RUN pip install --no-cache-dir --no-deps /tmp/*.whl

WORKDIR /app
ENV PYTHONUNBUFFERED=1
USER 10001
ENTRYPOINT ["python", "-m"]
CMD ["pipelines.build", "--help"]
