#!/usr/bin/env bash
# Builds the test peers, each a Go module in e2e/peers that pins real programs: Cilium's with kvtool, our small program
# over its packages, one module a version; Cilium's command line; a Kubernetes control plane and its etcd; CoreDNS; the
# conformance suite of MCS-API. They land in a cache outside the clone, under a hash of everything they are made of, and
# dist/peers/<name> points there; what is there already is not built again.
#
#   scripts/peers.sh            those that `npm test` needs
#   scripts/peers.sh --all      all versions of Cilium in e2e/peers, then the tests against them, and a table of the results
#   scripts/peers.sh NAME...    these, such as cilium-1.19 or mcs-conformance
#
# Without Go it says so and succeeds: the tests that need a peer are skipped then (and fail in CI).
set -euo pipefail
cd "$(dirname "$0")/.."

needed=(cilium-1.19 cilium-1.20 etcd kubernetes coredns cilium-cli)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/isthmus/peers

# Small programs, the same bytes wherever the clone lies, no C compiler, and no more than two cores.
flags=(-p 2 -trimpath -buildvcs=false)
ldflags='-s -w'

say() { printf 'peers: %s\n' "$*" >&2; }

# The programs that the `tool` lines of the module's go.mod name, and what belongs to them.
build_programs() { # NAME DIRECTORY
	local link=$ldflags
	if [ "$1" = kubernetes ]; then
		link+=$(kubernetes_version) || return
	fi
	(cd "e2e/peers/$1" && nice -n 10 go build "${flags[@]}" "-ldflags=$link" -o "$2/" tool) || return
	# The package of etcd's main program.
	[ ! -f "$2/server" ] || mv "$2/server" "$2/etcd" || return
	# Cilium's packages had another shape before 1.18.
	if is_known_to_kvtool "$1"; then
		build_kvtool "$1" "$2" && copy_crds "$1" "$2"
	fi
}

# A module without `tool` lines is one test binary, of its own name.
build_suite() { # NAME DIRECTORY
	(cd "e2e/peers/$1" && nice -n 10 go test -c "${flags[@]}" "-ldflags=$ldflags" -o "$2/$1" .)
}

# Linker flags that tell Kubernetes' programs their version: they do not start without it.
kubernetes_version() {
	local version minor package
	version=$(cd e2e/peers/kubernetes && go list -m -f '{{.Version}}' k8s.io/kubernetes)
	IFS=. read -r _ minor _ <<<"$version"
	for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
		printf ' -X %s.gitVersion=%s -X %s.gitMajor=1 -X %s.gitMinor=%s' $package "$version" $package $package "$minor"
	done
}

is_known_to_kvtool() { # NAME
	[[ $1 = cilium-[0-9]* ]] && grep -q "${1//-/_}" e2e/peers/kvtool/service_export.go
}

build_kvtool() { # NAME DIRECTORY
	(cd e2e/peers/kvtool && nice -n 10 go build "${flags[@]}" "-ldflags=$ldflags" \
		-modfile="../$1/go.mod" -tags "${1//-/_}" -o "$2/kvtool" .)
}

# CustomResourceDefinitions as Cilium and MCS-API publish them, named for their resources.
copy_crds() { # NAME DIRECTORY
	local cilium mcs file name
	cilium=$(cd "e2e/peers/$1" && go list -m -f '{{.Dir}}' github.com/cilium/cilium)
	mcs=$(cd "e2e/peers/$1" && go list -m -f '{{.Dir}}' sigs.k8s.io/mcs-api)
	mkdir -p "$2/crds/cilium" "$2/crds/mcs-api"
	install -m 644 "$cilium"/pkg/k8s/apis/cilium.io/client/crds/v2*/*.yaml "$2/crds/cilium/"
	for file in "$mcs"/config/crd/*_*.yaml; do
		name=${file##*_}
		install -m 644 "$file" "$2/crds/mcs-api/$name"
	done
}

# Everything that a peer is made of.
recipe() { # NAME
	echo "$go_version $(go env GOOS GOARCH) ${flags[*]} $ldflags"
	cat "e2e/peers/$1"/go.mod "e2e/peers/$1"/go.sum
	find "e2e/peers/$1" -name '*.go' -exec cat {} +
	declare -f build_programs
	case $1 in
	cilium-[0-9]*)
		cat e2e/peers/kvtool/*.go e2e/peers/kvtool/*.s
		declare -f build_kvtool copy_crds
		;;
	kubernetes) declare -f kubernetes_version ;;
	esac
}

build_peer() { # NAME
	local name=$1 module=$PWD/e2e/peers/$1
	[ -f "$module/go.mod" ] || { say "there is no e2e/peers/$name/go.mod"; return 2; }
	local least
	least=$(awk '$1 == "go" { print $2 }' "$module/go.mod")
	if [ "$(printf '%s\n%s\n' "$least" "$go_version" | sort -V | head -n 1)" != "$least" ]; then
		say "$name needs Go $least or newer, this is $go_version: its tests will be skipped"
		return 0
	fi
	local hash
	hash=$(recipe "$name" | sha256sum | cut -c 1-16)
	local target=$cache/$name-$hash
	if [ ! -d "$target" ]; then
		local work log started=$SECONDS build=build_programs
		grep -q '^tool ' "$module/go.mod" || build=build_suite
		work=$(mktemp -d "$cache/.building-XXXXXX")
		log=$cache/$name.log
		say "building $name (minutes, the first time)"
		if ! "$build" "$name" "$work" >"$log" 2>&1; then
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
	local name out version failed=0 lanes=(mirrors-us values read-by-us)
	out=$(mktemp)
	printf '\nTested on %s with Go %s:\n\n' "$(date -u +%Y-%m-%d)" "$go_version"
	echo "| Cilium | its kvstoremesh mirrors us | its values, and ours at its readers | we read and mirror it |"
	echo "|---|---|---|---|"
	for name in "$@"; do
		version=$(grep -o 'github.com/cilium/cilium v[0-9.]*' "e2e/peers/$name/go.mod" | head -n 1 | cut -d ' ' -f 2)
		say "testing against Cilium $version"
		ISTHMUS_CILIUMS=$name node dist/scripts/test.js "${lanes[@]/#/e2e/scenarios/cilium-}" >"$out" 2>&1 ||
			{ failed=1 && cat "$out" >&2; }
		echo "| $version | $(cell "$out" cilium-mirrors-us) | $(cell "$out" cilium-values) | $(cell "$out" cilium-read-by-us) |"
	done
	rm -f "$out"
	return "$failed"
}

if ! command -v go >/dev/null; then
	say "Go is not installed, so the test peers are not built: the tests against them will be skipped"
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
[ $# -gt 0 ] || names=("${needed[@]}")
if [ "${1:-}" = --all ]; then
	all=yes
	names=()
	for module in e2e/peers/cilium-[0-9]*/go.mod; do
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
