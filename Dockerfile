# jaxrnn and all that it needs, in a container:
#   docker build --tag jaxrnn .                                  # GPUs: --build-arg EXTRAS=mpi,cuda12
#   docker run --rm --volume "$PWD:$PWD" --workdir "$PWD" --user "$(id -u):$(id -g)" jaxrnn \
#       snakemake --profile workflow/profiles/local --configfile config/demo.yaml
# For a cluster: slurm/jaxrnn.def, which is the same for Apptainer.
FROM debian:12-slim
ARG EXTRAS=mpi
WORKDIR /opt/jaxrnn
COPY LICENSE README.md Snakefile environment.yml pyproject.toml requirements.lock ./
COPY config config
COPY jaxrnn jaxrnn
COPY slurm slurm
COPY workflow workflow
# compiled, because nobody can do that later in a container that is read-only
RUN INSTALL=1 slurm/install.sh .venv "$EXTRAS" \
    && { .venv/bin/python -m compileall -q -q .venv/lib jaxrnn || true; } \
    && rm -rf /root/.cache /var/lib/apt/lists/*
# a user by number has neither name nor home, and Snakemake asks for both
ENV PATH=/opt/jaxrnn/.venv/bin:$PATH HOME=/tmp USER=jaxrnn
CMD ["jaxrnn", "--help"]
