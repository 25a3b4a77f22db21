# Training on NVIDIA GPUs or, with --build-arg ACCELERATOR=tpu, on Cloud TPUs, with the versions of constraints.txt.
# docs/cloud_tpu.md has the commands.
FROM python:3.12-slim
ARG ACCELERATOR=cuda13
RUN useradd --create-home --uid 1000 trainer

# The large libraries first: they stay as they are when only the code changes.
WORKDIR /build
COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt "jax[${ACCELERATOR}]"
COPY pyproject.toml README.md LICENSE ./
COPY gcvit_flax gcvit_flax
RUN pip install --no-cache-dir -c constraints.txt ".[train,gcs]"

USER 1000
WORKDIR /home/trainer
ENTRYPOINT ["gcvit-train"]
