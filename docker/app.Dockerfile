# Image of the web page that localizes sounds in uploaded videos (python -m eval.app); uses a GPU if the container has one.
#
#   docker build -f docker/app.Dockerfile -t denseav-app .
#   docker run --rm --init --read-only --tmpfs /tmp:size=4g --cap-drop ALL -p 127.0.0.1:7860:7860 -v "$PWD/runs:/models:ro" \
#       denseav-app eval.app checkpoint=/models/demo host=0.0.0.0 temp_gb=3
#
# With all settings: docker/compose.yaml. Runs as user 10001 and writes to /tmp only. The page has no password: put a proxy with one in front of it
# before you publish the port on another address than 127.0.0.1.
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
COPY requirements.lock /tmp/
# The image has no compiler: packages come as wheels only.
RUN pip install --no-cache-dir --only-binary=:all: --require-hashes -r /tmp/requirements.lock \
    && useradd --uid 10001 --create-home app
COPY --from=wheel /wheels/*.whl /tmp/
RUN pip install --no-cache-dir --no-deps /tmp/*.whl

WORKDIR /app
# Libraries that keep caches find no other writable folder.
ENV PYTHONUNBUFFERED=1 HF_HOME=/tmp/huggingface MPLCONFIGDIR=/tmp/matplotlib NUMBA_CACHE_DIR=/tmp/numba TORCH_HOME=/tmp/torch
USER 10001
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/health', timeout=5)"]
ENTRYPOINT ["python", "-m"]
CMD ["eval.app", "checkpoint=toy", "host=0.0.0.0"]
