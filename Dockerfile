# syntax=docker/dockerfile:1

# What building needs stays in the first stage.
FROM python:3.11-slim AS build

# Every release and every file of it is in the lock files by its hash (`make lock`); nothing else is installed.
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_REQUIRE_HASHES=1

WORKDIR /src
COPY requirements ./requirements
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/opportune \
    && pip --python /opt/opportune install --only-binary :all: -r requirements/image.lock \
    && pip install --only-binary :all: -r requirements/build.lock
COPY pyproject.toml README.md LICENSE ./
COPY proto ./proto
COPY rulebase ./rulebase
COPY service ./service
COPY clients ./clients
# Made of what is here, with the tools from above: nothing is fetched, and there is nothing to hash.
RUN PIP_REQUIRE_HASHES=0 pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /wheels . \
    && PIP_REQUIRE_HASHES=0 pip --python /opt/opportune install --no-deps --no-index /wheels/*.whl


FROM python:3.11-slim

# Bytecode was compiled when installing: nothing is written outside the volume, so that the root
# filesystem may be read-only.
# Metrics and probes are for whoever runs the container; calls need TLS or a word that they need none.
ENV PATH=/opt/opportune/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    OPPORTUNE_METRICS_LISTEN=0.0.0.0:9464

RUN groupadd --system --gid 10001 opportune \
    && useradd --system --uid 10001 --gid opportune --home-dir /var/lib/opportune --create-home opportune
COPY --from=build /opt/opportune /opt/opportune

# By number, so that an orchestrator can tell that it is not root.
USER 10001:10001
# The ledger, the log and snapshots. Relative paths in the settings are relative to it.
WORKDIR /var/lib/opportune
VOLUME /var/lib/opportune
EXPOSE 50051 9464

# By HTTP, which works whether or not calls are encrypted, and costs no start of the whole command.
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=3 CMD \
    ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9464/readyz', timeout=5)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["opportune"]
CMD ["serve"]
