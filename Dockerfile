# A worker on the CPU; for a GPU build with --build-arg EXTRAS=demo,cuda13.
FROM python:3.12-slim
ARG EXTRAS=demo
WORKDIR /tuner
COPY pyproject.toml requirements.lock README.md ./
COPY tuner tuner
COPY studies studies
RUN pip install --no-cache-dir -c requirements.lock ".[${EXTRAS}]"
VOLUME /tuner/tuner-data
ENTRYPOINT ["tuner"]
