# Image for training and evaluation on NVIDIA GPUs; the host needs a driver for CUDA 13 (580 or newer).
#
#   docker build -f docker/train.Dockerfile -t denseav-train .
#   docker run --rm --gpus all --ipc=host -v /data:/data -v /runs:/app/runs denseav-train accelerate.commands.launch \
#       --config_file configs/accelerate/multi_gpu.yaml --num_processes 8 -m train config=configs/train/language.yaml
#   docker run --rm --gpus all -v /data:/data -v /runs:/app/runs denseav-train eval.run checkpoint=runs/language ...
#
# Several machines: docker/k8s_train.yaml. Runs as user 10001, which needs write access to the mounted runs folder; --user sets another. Pretrained
# weights are downloaded to /home/trainer/.cache: mount a folder there to keep them. The CUDA libraries are among the locked packages.
# --build-arg BASE=... sets another Debian or Ubuntu image with Python 3.11 or newer.
ARG BASE=nvidia/cuda:13.0.2-base-ubuntu24.04

FROM ${BASE} AS python
# torch.compile and Triton compile kernels at run time, with g++ and the headers of Python.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home trainer \
    && python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1

FROM python AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE train.py denseav.py ./
COPY configs configs
COPY pipelines pipelines
COPY model model
COPY eval eval
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python
COPY requirements.lock /tmp/
RUN pip install --no-cache-dir --only-binary=:all: --require-hashes -r /tmp/requirements.lock
COPY --from=wheel /wheels/*.whl /tmp/
RUN pip install --no-cache-dir --no-deps /tmp/*.whl

WORKDIR /app
COPY docker/train_node.sh ./
# accelerate launch reads --config_file from the working folder.
RUN mkdir configs && ln -s "$(python -c 'import configs; print(configs.__path__[0])')/accelerate" configs/accelerate
USER 10001
ENTRYPOINT ["python", "-m"]
CMD ["accelerate.commands.launch", "-m", "train", "--help"]
