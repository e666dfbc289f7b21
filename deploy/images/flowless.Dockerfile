# Flowless. Build from the top of the repository:
#
#   docker build --file deploy/images/flowless.Dockerfile --tag trustlayer/flowless .
#
# The base is used to build only; nothing of it but the packages that runtime-root.sh names is in the image. Pin it
# by digest where images are built: --build-arg BASE_IMAGE=debian@sha256:… (the digest changes with every update of
# Debian, and could not be looked up where this file was written).
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BASE_IMAGE} AS build
# Debian keeps one version of a package: a pin would fail at its next security update.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3-minimal python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*

COPY requirements/build.txt requirements/server-tracing.txt /src/requirements/
# Wheels only, so that nothing is ever compiled, and each is the file whose hash is in the lock, which has them all.
RUN python3 -m venv --without-pip /opt/build \
    && python3 -m venv --without-pip /opt/flowless \
    && python3 -m pip --python /opt/build/bin/python install --no-cache-dir --no-compile --no-deps \
        --only-binary :all: --require-hashes --requirement /src/requirements/build.txt \
    && python3 -m pip --python /opt/flowless/bin/python install --no-cache-dir --no-compile --no-deps \
        --only-binary :all: --require-hashes --requirement /src/requirements/server-tracing.txt

WORKDIR /src
COPY pyproject.toml README.md ./
COPY trust_core ./trust_core
COPY flowless ./flowless
# Of what apps import only the generated code is needed, and nothing else of it is in the image.
COPY clients/python/pyproject.toml clients/python/README.md ./clients/python/
COPY clients/python/src/trustlayer/__init__.py clients/python/src/trustlayer/py.typed ./clients/python/src/trustlayer/
COPY clients/python/src/trustlayer/v1 ./clients/python/src/trustlayer/v1
COPY clients/python/src/trustlayer/pubflow ./clients/python/src/trustlayer/pubflow
# The wheel names both programs; the other one's code is not here.
RUN /opt/build/bin/python -m hatchling build --target wheel --directory /dist
WORKDIR /src/clients/python
RUN /opt/build/bin/python -m hatchling build --target wheel --directory /dist \
    && python3 -m pip --python /opt/flowless/bin/python install --no-cache-dir --no-compile --no-deps --no-index \
        /dist/*.whl \
    && rm /opt/flowless/bin/bridge-sidecar

WORKDIR /src
COPY deploy/images/runtime-root.sh /src/
# What is compiled now is not compiled, or tried to be written, at every start.
RUN sh /src/runtime-root.sh /image flowless 10001 /etc/flowless /var/lib/flowless \
    && mkdir -p /image/opt /image/etc/ssl/certs \
    && cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ \
    && cp -a /opt/flowless /image/opt/ \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash -s /image -p / \
        /image/usr/lib/python3* /image/opt/flowless/lib \
    && find /image -xdev -type f -perm /6000 -exec chmod a-s {} + \
    && chown -R 0:0 /image \
    && chmod -R go-w /image/opt /image/usr /image/etc

FROM scratch
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="flowless" \
    org.opencontainers.image.description="Identity, sessions and trust tokens: the server of the Trust Layer" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
COPY --from=build /image /
ENV PATH=/opt/flowless/bin:/usr/bin \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNOUSERSITE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /
USER 10001:10001
EXPOSE 7600 7680 7690
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/flowless/bin/flowless"]
CMD ["serve"]
