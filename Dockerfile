# tuner on the CPU; for a GPU build with --build-arg EXTRAS=demo,s3,cuda13.
FROM python:3.12-slim
ARG EXTRAS=demo,s3

# Volumes mounted at /artifacts and /tuner/tuner-data take this user as their owner.
RUN useradd --create-home tuner \
    && install --directory --owner=tuner --group=tuner /artifacts /tuner /tuner/tuner-data

# Dependencies first, with no more of tuner than its version: a change to the sources need not
# install them again.
WORKDIR /build
COPY pyproject.toml requirements.lock ./
COPY tuner/version.py tuner/
RUN touch README.md \
    && pip install --no-cache-dir -c requirements.lock ".[${EXTRAS}]"

COPY README.md ./
COPY tuner tuner
RUN pip install --no-cache-dir --no-deps --force-reinstall .

# Owned by the user, who must be able to read them whatever modes they had when they were copied.
WORKDIR /tuner
COPY --chown=tuner studies studies

# No HEALTHCHECK: a worker that is stuck shows in the database, where its heartbeat stops.
USER tuner
ENTRYPOINT ["tuner"]
