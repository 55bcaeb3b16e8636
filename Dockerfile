# tuner for the CPU; for a GPU, build with --build-arg EXTRAS=demo,s3,cuda13.
FROM python:3.12-slim AS dependencies
ARG EXTRAS=demo,s3
# Packages that others require, but for parts that tuner does not use: mlxtend's plots, and files in
# Flax's old formats. The extras datasets and notebook need pandas.
ARG UNUSED="contourpy cycler fonttools kiwisolver matplotlib orbax-checkpoint pandas pyparsing tensorstore uvloop"
RUN apt-get update && apt-get install --yes --no-install-recommends binutils \
    && python -m venv /opt/tuner
ENV PATH=/opt/tuner/bin:$PATH

# Dependencies first, with only tuner's version file, so that a change to the sources does not install
# them again. Tests, symbols, services other than S3, and pip are removed. Bytecode is compiled for the
# modules that commands import: containers can't write it, and would start slowly without it. Should
# one of them need what was removed, the build fails there.
WORKDIR /build
COPY pyproject.toml requirements.lock ./
COPY tuner/version.py tuner/
RUN touch README.md \
    && pip install --no-cache-dir --no-compile -c requirements.lock ".[${EXTRAS}]" \
    && pip uninstall --yes tuner ${UNUSED} \
    && cd /opt/tuner/lib/python3*/site-packages \
    && rm -rf numpy/*/tests pandas/tests scipy/*/tests sklearn/*/tests \
        plotly/labextension plotly/package_data/datasets \
    && find botocore/data -mindepth 1 -maxdepth 1 -type d \
        ! -name s3 ! -name sts ! -name sso ! -name sso-oidc -exec rm -r {} + \
    && find . -name "*.so*" -type f -exec strip --strip-unneeded {} + \
    && pip uninstall --yes pip \
    && find . -name __pycache__ -prune -exec rm -r {} + \
    && JAX_PLATFORMS=cpu python -c "import alembic.command, flax.nnx, optax, optuna_dashboard, \
        PIL.Image, plotly.graph_objects, psycopg, pydantic, rich.live, s3fs, scipy.linalg, typer; \
        import mlxtend.data, sklearn.datasets; \
        import botocore.session; botocore.session.get_session().get_service_model('s3')"

FROM python:3.12-slim AS package
RUN python -m venv /opt/tuner
WORKDIR /build
COPY pyproject.toml README.md ./
COPY tuner tuner
RUN /opt/tuner/bin/pip install --no-cache-dir --no-deps --prefix /package .

FROM python:3.12-slim
# By number, because Kubernetes does not look up whether a name is root's. A new volume takes the owner
# of its mount point.
RUN useradd --uid 1000 --create-home tuner \
    && install --directory --owner=tuner --group=tuner \
        /artifacts /tuner /tuner/tuner-data /home/tuner/.cache /home/tuner/.cache/tuner
COPY --from=dependencies /opt/tuner /opt/tuner
COPY --from=package /package /opt/tuner
ENV PATH=/opt/tuner/bin:$PATH

# Owned by the user, so that they are readable whatever their modes in the checkout.
WORKDIR /tuner
COPY --chown=tuner studies studies

# No HEALTHCHECK: what to check depends on the command; docker-compose.yml has one for each service.
USER 1000:1000
ENTRYPOINT ["tuner"]
