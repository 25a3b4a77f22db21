# Training on NVIDIA GPUs (--build-arg ACCELERATOR=cuda13) or Cloud TPUs (ACCELERATOR=tpu), with the versions of
# constraints.txt. docs/cloud_tpu.md has the commands that build and run it.
FROM python:3.12-slim

ARG ACCELERATOR=cuda13

# The large libraries first: a change of the code leaves them as they are.
WORKDIR /build
COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt "jax[${ACCELERATOR}]"

COPY pyproject.toml README.md LICENSE ./
COPY gcvit_flax gcvit_flax
RUN pip install --no-cache-dir -c constraints.txt ".[train,gcs]"

RUN useradd --create-home trainer
USER trainer
WORKDIR /home/trainer
ENTRYPOINT ["gcvit-train"]
