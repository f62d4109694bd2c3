# Training and evaluation in an image, for machines with NVIDIA GPUs and a driver for CUDA 13 (580 or newer).
#
#   docker build -f docker/train.Dockerfile -t denseav-train .
#   docker run --rm --gpus all --ipc=host -v /data:/data -v /runs:/app/runs denseav-train accelerate.commands.launch \
#       --config_file configs/accelerate/multi_gpu.yaml --num_processes 8 train.py config=configs/train/language.yaml
#   docker run --rm --gpus all -v /data:/data -v /runs:/app/runs denseav-train eval.run checkpoint=runs/language ...
#
# Several machines: docker/k8s_train.yaml. It runs as user 10001, who must be able to write where runs go; --user gives another. Pre-trained weights are
# fetched to /home/trainer/.cache: mount a folder there to fetch them once. CUDA's own libraries come with the locked packages.
FROM nvidia/cuda:13.0.2-base-ubuntu24.04

# torch.compile and Triton build their kernels on the machine they run on, with a compiler and Python's headers.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home trainer

COPY requirements.lock /tmp/
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --only-binary=:all: --require-hashes -r /tmp/requirements.lock

WORKDIR /app
COPY configs configs
COPY pipelines pipelines
COPY model model
COPY eval eval
COPY train.py docker/train_node.sh ./
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
ENTRYPOINT ["python", "-m"]
CMD ["accelerate.commands.launch", "train.py", "--help"]
