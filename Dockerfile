# syntax=docker/dockerfile:1.7
# One image for every component; deploy/service starts the one that the first argument names. Built once, promoted by
# digest.

# The pipeline passes the base by digest. Any Debian with Python 3.11 to 3.14 will do.
ARG BASE_IMAGE=docker.io/library/python:3.14-slim-trixie

FROM ${BASE_IMAGE} AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /build
RUN python3 -m venv /opt/classfeed
# In a layer of their own, which is built again only when the lock changes.
COPY deploy/requirements.lock deploy/requirements.lock
RUN /opt/classfeed/bin/pip install --quiet --require-hashes --no-deps --only-binary=:all: --no-binary=antlr4-python3-runtime -r deploy/requirements.lock
COPY deploy/build.lock deploy/build.lock
RUN python3 -m venv /build/tools \
    && /build/tools/bin/pip install --quiet --require-hashes --no-deps -r deploy/build.lock
COPY pyproject.toml README.md dagster.yaml ./
COPY classfeed_dagster classfeed_dagster
RUN /build/tools/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /build/wheels . \
    && /opt/classfeed/bin/pip install --quiet --no-deps --no-index --find-links /build/wheels classfeed-dagster \
    && /opt/classfeed/bin/pip check \
    && /opt/classfeed/bin/pip uninstall --quiet --yes pip setuptools

FROM ${BASE_IMAGE} AS final
ARG CODE_VERSION=unknown
LABEL org.opencontainers.image.title="classfeed" org.opencontainers.image.version="${CODE_VERSION}"
RUN groupadd --gid 10001 classfeed && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp classfeed \
    && install -d -o root -g root -m 0755 /opt/dagster
COPY --from=builder /opt/classfeed /opt/classfeed
COPY deploy/dagster.yaml deploy/workspace.yaml /opt/dagster/
COPY --chmod=0755 deploy/service deploy/health deploy/smoke /opt/classfeed/bin/
ENV PATH=/opt/classfeed/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DAGSTER_HOME=/opt/dagster \
    HOME=/tmp \
    CLASSFEED_HOME=/tmp/classfeed \
    CLASSFEED_LOG_FORMAT=json \
    CLASSFEED_CODE_VERSION=${CODE_VERSION}
# The root filesystem is mounted read-only; /tmp is a volume of the task.
VOLUME ["/tmp"]
WORKDIR /opt/dagster
USER 10001:10001
EXPOSE 3000 4000
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["health"]
ENTRYPOINT ["service"]
CMD ["code-server"]
