# The image of the mesh: `clustermesh-apiserver`, `clustermesh-agent`, the CNI plugin, `clustermesh` and the etcd of a cluster.
# helm/clustermesh starts them. By default it runs as nobody in particular, with a root file system that can be read-only.
#
#   docker build --tag isthmus/clustermesh:0.1.0 .
#
# All that is done is in scripts/, so that it can be run and tested without a container engine.

FROM node:20-bookworm-slim AS build
WORKDIR /src
COPY . .
# Debian packages, npm packages, TypeScript, eBPF, the CNI plugin.
RUN scripts/setup.sh --without-peers
RUN scripts/package-tree.sh /out/isthmus

FROM debian:bookworm-slim
COPY scripts/image-packages.sh scripts/image-finish.sh /tmp/
RUN /tmp/image-packages.sh
COPY --from=build /out/isthmus /opt/isthmus
RUN /tmp/image-finish.sh

LABEL org.opencontainers.image.title="isthmus" \
      org.opencontainers.image.description="Multi-cluster mesh federation that speaks Cilium ClusterMesh, with an eBPF datapath" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"

# A number: Kubernetes checks that it is not root. The agent's pods say that they are.
USER 65532:65532
WORKDIR /
# Where the apiserver keeps what must outlive it.
VOLUME ["/var/lib/isthmus/apiserver", "/tmp"]
# Gate, registry, enrolment, health, metrics.
EXPOSE 2379 2381 2382 9880 9962
CMD ["clustermesh", "--help"]
