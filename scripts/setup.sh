#!/usr/bin/env bash
# Sets up a Debian machine with Node 20: system packages, npm packages, build. Harmless and quick to call again:
# each step is skipped when what it makes is there already. Says in plain words what is missing if it cannot go on.
# With --without-peers it leaves out Cilium's own programs, which only the tests need and which take minutes to build.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# What the product needs at run time, what compiles the eBPF programs, and what the tests call.
debian_packages=(
	etcd-server etcd-client       # the store of each cluster, and etcdctl as a real client in tests
	clang llvm libbpf-dev libbpf1 # eBPF objects, and the loader
	bpftool iproute2              # devices, addresses, routes; looking into the kernel
	containernetworking-plugins   # ptp, bridge, host-local, portmap (with iptables), before our own plugin in the chain
	gcc libc6-dev make            # clustermesh-cni is a static C program
	curl iputils-ping openssl util-linux procps jq ca-certificates
	unzip                         # takes helm out of the package it comes in
)

node_is_new_enough() {
	node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)'
}

install_debian_packages() {
	local missing=() name
	local installed
	installed=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' 2>/dev/null | awk '$1 == "ii" { print $2 }') || true
	for name in "${debian_packages[@]}"; do
		grep -qx -- "$name" <<<"$installed" || missing+=("$name")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	command -v apt-get >/dev/null || fail "these Debian packages are missing and apt-get is not here to install them: ${missing[*]}"
	[ "$(id -u)" = 0 ] || fail "these Debian packages are missing: ${missing[*]}. Run as root, or: sudo apt-get install ${missing[*]}"
	say "installing Debian packages: ${missing[*]}"

	# Debian starts a service as soon as it is installed; each cluster here runs an etcd of its own, so refuse that once.
	local policy=/usr/sbin/policy-rc.d made_policy=no
	if [ ! -e "$policy" ]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
		made_policy=yes
	fi
	local log status=0
	log=$(mktemp)
	{
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
	} >"$log" 2>&1 || status=$?
	[ "$made_policy" = no ] || rm -f "$policy"
	if [ "$status" != 0 ]; then
		tail -n 15 "$log" >&2
		fail "apt-get could not install them; the whole output is in $log"
	fi
	rm -f "$log"
	# With systemd the unit would come back at the next start of the machine.
	if [ -d /run/systemd/system ] && [[ " ${missing[*]} " == *" etcd-server "* ]]; then
		systemctl disable --now etcd.service >/dev/null 2>&1 || say "could not disable etcd.service: stop it by hand if you do not use it"
	fi
}

install_npm_packages() {
	local want
	want=$(sha256sum package-lock.json | cut -d' ' -f1)
	[ "$(cat node_modules/.isthmus-lock 2>/dev/null)" != "$want" ] || return 0
	say "installing npm packages"
	npm ci --no-audit --no-fund --loglevel=error >&2 || fail "npm ci failed: see the message above; check that the npm registry can be reached"
	printf '%s\n' "$want" >node_modules/.isthmus-lock
}

command -v node >/dev/null || fail "Node.js is missing: install Node 20.19 or newer"
node_is_new_enough || fail "Node $(node --version) is too old: install Node 20.19 or newer"
[ -r /etc/debian_version ] || say "this is not Debian: package names may differ"
install_debian_packages
install_npm_packages
scripts/build.sh
if [ "${1:-}" != --without-peers ]; then
	scripts/peers.sh || fail "the test peers could not be built: see above"
	scripts/helm.sh || fail "helm, which the tests of the chart run, could not be fetched: see above"
fi
