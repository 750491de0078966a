# syntax=docker/dockerfile:1

# The compilers and caches that building needs stay in the first stage.
FROM python:3.11-slim AS build

# Which extras to install: "server" is enough for one process on SQLite, "otel" adds traces.
ARG EXTRAS=server,postgres,redis

WORKDIR /src
RUN python -m venv /opt/opportune
COPY pyproject.toml README.md LICENSE ./
COPY proto ./proto
COPY rulebase ./rulebase
COPY service ./service
COPY clients ./clients
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/opportune/bin/pip install --disable-pip-version-check --root-user-action=ignore ".[${EXTRAS}]"


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
