#!/usr/bin/env bash
# Builds the test peers: real Cilium programs and kvtool, our small program over Cilium's packages, one Go module a
# version (e2e/peers/cilium-*/go.mod). They land in a cache outside the clone, under a hash of everything they are
# made of, and dist/peers/<name> points there; what is there already is not built again.
#
#   scripts/peers.sh            the newest two versions of Cilium, which `npm test` needs
#   scripts/peers.sh --all      all versions in e2e/peers, then the tests against them, and a table of the results
#   scripts/peers.sh NAME...    these, such as cilium-1.19
#
# Without Go it says so and succeeds: the tests that need a peer are skipped then (and fail in CI).
set -euo pipefail
cd "$(dirname "$0")/.."

newest=(cilium-1.19 cilium-1.20)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/isthmus/peers

# Small programs, the same bytes wherever the clone lies, no C compiler, and no more than two cores.
flags=(-p 2 -trimpath -buildvcs=false '-ldflags=-s -w')

say() { printf 'peers: %s\n' "$*" >&2; }

# Both programs of a peer, 150 MB; of the first version that is built it takes 4 minutes of two cores.
build_programs() { # NAME DIRECTORY
	local build=(nice -n 10 go build "${flags[@]}")
	(cd "e2e/peers/$1" &&
		"${build[@]}" -o "$2/clustermesh-apiserver" github.com/cilium/cilium/clustermesh-apiserver) || return
	# Cilium's packages had another shape before 1.18.
	grep -q "${1//-/_}" e2e/peers/kvtool/service_export.go || return 0
	(cd e2e/peers/kvtool &&
		"${build[@]}" -modfile="../$1/go.mod" -tags "${1//-/_}" -o "$2/kvtool" .)
}

build_peer() { # NAME
	local name=$1 module=$PWD/e2e/peers/$1
	[ -f "$module/go.mod" ] || { say "there is no e2e/peers/$name/go.mod"; return 2; }
	local needed
	needed=$(awk '$1 == "go" { print $2 }' "$module/go.mod")
	if [ "$(printf '%s\n%s\n' "$needed" "$go_version" | sort -V | head -n 1)" != "$needed" ]; then
		say "$name needs Go $needed or newer, this is $go_version: its tests will be skipped"
		return 0
	fi
	local hash
	hash=$({
		echo "$go_version $(go env GOOS GOARCH) ${flags[*]}"
		sha256sum <"$module/go.mod"
		sha256sum <"$module/go.sum"
		cat e2e/peers/kvtool/*.go e2e/peers/kvtool/*.s | sha256sum
	} | sha256sum | cut -c 1-16)
	local target=$cache/$name-$hash
	if [ ! -d "$target" ]; then
		local work log started=$SECONDS
		work=$(mktemp -d "$cache/.building-XXXXXX")
		log=$cache/$name.log
		say "building $name (minutes, the first time)"
		if ! build_programs "$name" "$work" >"$log" 2>&1; then
			rm -rf "$work"
			tail -n 15 "$log" >&2
			say "cannot build $name: the whole output is in $log; check that the Go module proxy can be reached"
			return 1
		fi
		chmod 755 "$work"
		mv -T "$work" "$target"
		say "built $name in $((SECONDS - started)) s"
	fi
	touch "$target"
	mkdir -p dist/peers
	ln -sfn "$target" "dist/peers/$name"
	# The last three are kept, for other clones and for going back and forth between two sources.
	local old
	for old in $(ls -dt "$cache/$name"-*/ | tail -n +4); do rm -rf "$old"; done
}

# What became of one test file against one version, as a cell of the table.
cell() { # OUTPUT FILE
	if grep -q "^not ok .*$2" "$1"; then
		echo FAILED
	elif grep -q "^skipped .*$2" "$1"; then
		echo "not run"
	elif grep -q "^ok .*$2" "$1"; then
		echo passed
	else
		echo FAILED
	fi
}

# Runs the tests against each version by itself and prints a table in Markdown; fails if a test did.
test_peers() { # NAME...
	local name out version failed=0
	out=$(mktemp)
	printf '\nTested on %s with Go %s:\n\n' "$(date -u +%Y-%m-%d)" "$go_version"
	echo "| Cilium | its kvstoremesh mirrors us | its values, and ours at its readers | we read and mirror it |"
	echo "|---|---|---|---|"
	for name in "$@"; do
		version=$(grep -o 'github.com/cilium/cilium v[0-9.]*' "e2e/peers/$name/go.mod" | head -n 1 | cut -d ' ' -f 2)
		say "testing against Cilium $version"
		ISTHMUS_CILIUMS=$name node dist/scripts/test.js e2e/scenarios/cilium- >"$out" 2>&1 || { failed=1 && cat "$out" >&2; }
		echo "| $version | $(cell "$out" cilium-mirrors-us) | $(cell "$out" cilium-values) | $(cell "$out" cilium-read-by-us) |"
	done
	rm -f "$out"
	return "$failed"
}

if ! command -v go >/dev/null; then
	say "Go is not installed, so Cilium's own programs are not built: the tests against them will be skipped"
	exit 0
fi
go_version=$(go env GOVERSION)
go_version=${go_version#go}
export CGO_ENABLED=0 GOWORK=off
unset GOFLAGS
mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9
# Of builds that were killed.
rm -rf "$cache"/.building-*

all=no
names=("$@")
[ $# -gt 0 ] || names=("${newest[@]}")
if [ "${1:-}" = --all ]; then
	all=yes
	names=()
	for module in e2e/peers/cilium-*/go.mod; do
		module=${module%/go.mod}
		names+=("${module##*/}")
	done
fi
for name in "${names[@]}"; do
	build_peer "$name"
done
flock -u 9
if [ "$all" = yes ]; then
	scripts/build.sh
	test_peers "${names[@]}"
fi
