#!/bin/sh
# Installs what the image has besides the program: called once by the Dockerfile, as root, in an empty Debian.
set -eu
packages="libstdc++6 libgcc-s1 iproute2 iptables iputils-ping etcd-server"

export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# shellcheck disable=SC2086 # one word each
apt-get install -q -y --no-install-recommends $packages
apt-get clean
# What differs from one build to the next, and nobody reads.
rm -rf /var/lib/apt/lists/* /var/cache/ldconfig/aux-cache /var/log/apt /var/log/dpkg.log /var/log/alternatives.log
