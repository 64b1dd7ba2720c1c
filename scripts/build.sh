#!/usr/bin/env bash
# Compiles TypeScript, the eBPF programs and the CNI plugin into dist/. Does nothing when no source is newer than the last build.
set -euo pipefail
cd "$(dirname "$0")/.."

sources=(package.json package-lock.json tsconfig.json)
for folder in agent bench bpf cli clustermesh-apiserver e2e mesh pki scripts; do
	[ ! -d "$folder" ] || sources+=("$folder")
done
stamp=dist/.built

# The list of files is part of the stamp: a removed file is newer than nothing.
list=$(find "${sources[@]}" -type f | LC_ALL=C sort | sha256sum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$list" ]; then
	[ -n "$(find "${sources[@]}" -type f -newer "$stamp" -print -quit)" ] || exit 0
fi

# Files whose source is gone must not live on as stale tests.
if [ -f "$stamp" ] && [ "$(cat "$stamp")" != "$list" ]; then
	find dist -name '*.js' | while read -r built; do
		source=${built#dist/}
		[ -f "${source%.js}.ts" ] || rm -f "$built" "$built.map"
	done
fi

started=$(mktemp)
trap 'rm -f "$started"' EXIT
echo "build: compiling" >&2
npx --no-install tsc
make --silent -C bpf OUT="$PWD/dist/bpf"
mkdir -p dist/bin
version=$(sed -n 's/^  "version": "\(.*\)",$/\1/p' package.json)
gcc -std=c11 -O2 -static -Wall -Wextra -Werror -DISTHMUS_VERSION="\"$version\"" -o dist/bin/clustermesh-cni agent/cni/clustermesh-cni.c
gcc -std=gnu11 -O2 -static -pthread -Wall -Wextra -Werror -o dist/bin/netload bench/netload/netload.c
chmod +x dist/cli/main.js dist/clustermesh-apiserver/main.js dist/agent/main.js
printf '%s\n' "$list" >"$stamp"
# As old as the beginning of this build: what was saved while it ran is compiled next time.
touch -r "$started" "$stamp"
