# barm in a container, with its command as the entry point.
#   docker build -t barm .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" barm predict runs/own photo.jpg --out seen
# ARGs choose the base image (of CUDA, for instance), the extras, and a further package index (of torch without CUDA).
ARG BASE=python:3.12-slim
FROM ${BASE}

# base images without Python, such as CUDA's, take their distribution's
RUN python3 -c "import ensurepip, venv" \
    || (apt-get update && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*)

ARG EXTRAS=export,hf,models
ARG PIP_EXTRA_INDEX_URL=
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
RUN python3 -m venv /opt/barm \
    && /opt/barm/bin/pip install --no-cache-dir --constraint constraints.txt ".[${EXTRAS}]"

# any user may write to the home folder, so that --user works
RUN useradd --create-home barm && chmod 1777 /home/barm && mkdir /work && chown barm /work
ENV HOME=/home/barm PATH=/opt/barm/bin:$PATH PYTHONUNBUFFERED=1
USER barm
WORKDIR /work
ENTRYPOINT ["barm"]
CMD ["--help"]
