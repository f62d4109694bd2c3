# The torch-free half in an image: builds, verifies and inspects shards.
#
#   docker build -f docker/pipeline.Dockerfile -t denseav-pipeline .
#   docker run --rm -v /data:/data denseav-pipeline pipelines.build config=configs/build/audioset.yaml source.root=/data/audioset out=/data/shards/train
#   docker run --rm -v /data:/data denseav-pipeline pipelines.verify /data/shards/train
#
# It runs as user 10001; --user gives another, who owns the shards then. s3:// is in requirements-build.lock; for gs:// or abfs:// add gcsfs or adlfs.
FROM python:3.11.13-slim-bookworm

COPY requirements-build.lock /tmp/
# Wheels only: there is no compiler in the image.
RUN pip install --no-cache-dir --only-binary=:all: --require-hashes -r /tmp/requirements-build.lock \
    && useradd --uid 10001 --create-home pipeline

WORKDIR /app
COPY configs configs
COPY pipelines pipelines
ENV PYTHONUNBUFFERED=1
USER 10001
ENTRYPOINT ["python", "-m"]
CMD ["pipelines.build", "--help"]
