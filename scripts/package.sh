#!/usr/bin/env bash
# Packages the program for machines: a tarball that can be unpacked anywhere, and a Debian package.
#
#   scripts/package.sh [FOLDER]      default: dist/packages
#
# Needs a checkout that is set up and built (`npm run setup`). For the architecture of this machine. The same sources,
# built by the same tools, give the same bytes; times are those of SOURCE_DATE_EPOCH (default: of the newest commit).
# COMPRESSION_LEVEL is gzip's: 1 is quick, 9 is small (default 6).
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p "${1:-dist/packages}"
out=$(cd "${1:-dist/packages}" && pwd)

version=$(jq -r .version package.json)
architecture=$(dpkg --print-architecture)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH LC_ALL=C
level=${COMPRESSION_LEVEL:-6}
umask 022

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say() { printf 'package: %s\n' "$*" >&2; }

# A list of file names, sorted; times and owners that say nothing of the machine that made it.
as_tar() { # FOLDER NAME
	tar -C "$1" --sort=name --format=gnu --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -cf - "$2"
}

make_tarball() {
	local file=$out/isthmus-$version-linux-$architecture.tar.gz
	as_tar "$work" isthmus | gzip -n "-$level" >"$file"
	say "$file"
}

# Places of Debian: the program in one folder, commands in the path, settings in /etc.
make_deb() {
	local root=$work/deb file=$out/isthmus_${version}_$architecture.deb name
	mkdir -p "$root/opt" "$root/usr/bin"
	mv "$work/isthmus" "$root/opt/isthmus"
	for name in clustermesh clustermesh-agent clustermesh-apiserver clustermesh-cni; do
		ln -s "../../opt/isthmus/bin/$name" "$root/usr/bin/$name"
	done
	install -D -m 644 scripts/packaging/isthmus-agent.default "$root/etc/default/isthmus-agent"
	install -D -m 644 LICENSE "$root/usr/share/doc/isthmus/copyright"
	install -D -m 755 scripts/packaging/postinst "$root/DEBIAN/postinst"
	install -D -m 755 scripts/packaging/prerm "$root/DEBIAN/prerm"
	echo /etc/default/isthmus-agent >"$root/DEBIAN/conffiles"
	(cd "$root" && find etc opt usr -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
	write_control "$(du -sk --apparent-size --exclude=DEBIAN "$root" | cut -f1)" "$(least_glibc "$root")" >"$root/DEBIAN/control"
	find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
	dpkg-deb --root-owner-group -Zgzip "-z$level" --build "$root" "$file" >/dev/null
	say "$file"
}

# The newest version of glibc that a program or a library asks for.
least_glibc() { # FOLDER
	find "$1/opt" -type f \( -name '*.so.*' -o -name '*.node' -o -path '*/runtime/*' \) -exec objdump -T {} + |
		grep -oE 'GLIBC_[0-9.]+' | sort -uV | sed -n '$s/GLIBC_//p'
}

write_control() { # KILOBYTES GLIBC
	cat <<-END
		Package: isthmus
		Version: $version
		Architecture: $architecture
		Maintainer: Isthmus developers
		Section: net
		Priority: optional
		Installed-Size: $1
		Depends: libc6 (>= $2), libstdc++6 (>= 8), libgcc-s1 | libgcc1, iproute2, iputils-ping
		Suggests: etcd-server, systemd
		Description: multi-cluster mesh federation that speaks Cilium ClusterMesh
		 The agent that makes this machine a member of a mesh of clusters
		 (clustermesh vm join), and the command line tool. It brings its own Node,
		 npm packages and libbpf; eBPF programs are compiled already.
		 .
		 With etcd-server it can also publish a cluster that has no Kubernetes
		 (clustermesh-apiserver).
	END
}

scripts/package-tree.sh "$work/isthmus"
make_tarball
make_deb
