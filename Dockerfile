# tuner for the CPU; for a GPU, build with --build-arg EXTRAS=demo,s3,cuda13.
FROM python:3.12-slim AS dependencies
ARG EXTRAS=demo,s3
RUN apt-get update && apt-get install --yes --no-install-recommends binutils \
    && python -m venv /opt/tuner
ENV PATH=/opt/tuner/bin:$PATH

# Dependencies first, with only tuner's version file, so that a change to the sources does not install
# them again. Their tests and symbols, a fifth of their size, are removed. Bytecode is compiled for the
# modules that commands import: containers can't write it, and would start slowly without it.
WORKDIR /build
COPY pyproject.toml requirements.lock ./
COPY tuner/version.py tuner/
RUN touch README.md \
    && pip install --no-cache-dir --no-compile -c requirements.lock ".[${EXTRAS}]" \
    && pip uninstall --yes tuner \
    && cd /opt/tuner/lib/python3*/site-packages \
    && rm -r numpy/*/tests pandas/tests scipy/*/tests sklearn/*/tests \
    && find . -name "*.so*" -type f -exec strip --strip-unneeded {} + \
    && find . -name __pycache__ -prune -exec rm -r {} + \
    && JAX_PLATFORMS=cpu python -c "import alembic.command, flax.nnx, optax, optuna_dashboard, \
        PIL.Image, plotly.graph_objects, psycopg, pydantic, rich.live, s3fs, scipy.linalg, typer"

FROM python:3.12-slim
COPY --from=dependencies /opt/tuner /opt/tuner
ENV PATH=/opt/tuner/bin:$PATH

# A new volume takes the owner of its mount point.
RUN useradd --create-home tuner \
    && install --directory --owner=tuner --group=tuner \
        /artifacts /tuner /tuner/tuner-data /home/tuner/.cache /home/tuner/.cache/tuner

WORKDIR /build
COPY pyproject.toml README.md ./
COPY tuner tuner
RUN pip install --no-cache-dir --no-deps .

# Owned by the user, so that they are readable whatever their modes in the checkout.
WORKDIR /tuner
COPY --chown=tuner studies studies

# No HEALTHCHECK: a stuck worker shows in the database, because its heartbeat stops.
USER tuner
ENTRYPOINT ["tuner"]
