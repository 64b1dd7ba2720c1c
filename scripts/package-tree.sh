#!/usr/bin/env bash
# Lays out the program as it is installed: everything below one folder that can lie anywhere, /opt/isthmus by habit.
#
#   scripts/package-tree.sh FOLDER
#
# FOLDER must not exist. Taken from a checkout that is set up and built. What is in it depends on that checkout alone:
#
#   bin/        the four commands     dist/           compiled programs, without tests, benchmarks and the lab
#   runtime/    Node                  dist/bpf/       eBPF programs, as the kernel loads them
#   lib/        libbpf and its own    node_modules/   npm packages that programs need at run time
set -euo pipefail
target=${1:?usage: scripts/package-tree.sh FOLDER}
[ ! -e "$target" ] || { echo "package: $target exists" >&2; exit 2; }
mkdir -p "$target"
target=$(cd "$target" && pwd)
cd "$(dirname "$0")/.."

say() { printf 'package: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# Source folders whose programs run outside a checkout.
folders=(agent cli clustermesh-apiserver mesh pki)
# What a machine has that runs programs for glibc at all; the package names them as dependencies.
of_the_system='ld-linux|linux-vdso|libc\.so|libm\.so|libdl\.so|libpthread\.so|librt\.so|libstdc\+\+\.so|libgcc_s\.so'
# `loadLibbpf` opens these by name, from lib/.
carried=(libzstd.so.1 libz.so.1 libelf.so.1 libbpf.so.1)

# Files that are not made here, and where they were found, for the list of materials.
origins=$(mktemp)
trap 'rm -f "$origins"' EXIT

copy_programs() {
	local file
	[ -e dist/cli/main.js ] && [ -e dist/bpf/mesh_endpoint.bpf.o ] || fail "nothing is built here: run scripts/build.sh"
	{
		(cd dist && find "${folders[@]}" -name '*.js' ! -name '*.test.js' ! -path '*/testing/*' ! -path '*/testdata/*') |
			sed 's,^,dist/,'
		find dist/bpf -maxdepth 1 -name '*.bpf.o'
		# What is read as it is: formats of messages, objects of Kubernetes.
		find mesh clustermesh-apiserver -type f \( -name '*.proto' -o -name '*.yaml' \) ! -path '*/testing/*' ! -path '*/testdata/*'
		printf '%s\n' dist/bin/clustermesh-cni package.json LICENSE
	} | copy_listed
}

# Copies the files whose paths are read, each to the same path below the target.
copy_listed() {
	tar -cf - -T - | tar -C "$target" -xf - --no-same-owner
}

# Without what only compilers, editors and debuggers read.
copy_modules() {
	local modules
	[ -e node_modules/.package-lock.json ] || fail "npm packages are missing: run scripts/setup.sh"
	modules=$(mktemp)
	jq -r '.packages | to_entries[] | select(.value.dev != true) | .key' node_modules/.package-lock.json |
		grep -vE '(^|/)node_modules/(@types/|undici-types$)' >"$modules"
	# Each package by itself: those nested in it have entries of their own.
	while read -r module; do
		# An optional one may be for another platform.
		[ -d "$module" ] || continue
		find "$module" -path "$module/node_modules" -prune -o -type f \
			! -name '*.d.ts' ! -name '*.d.mts' ! -name '*.d.cts' ! -name '*.map' -print
	done <"$modules" | copy_listed
	rm -f "$modules"
}

# Copies a file that others built, and notes where it came from.
copy_foreign() { # FILE TARGET MODE
	install -D -m "$3" "$1" "$target/$2"
	printf '%s\t%s\n' "$2" "$1" >>"$origins"
}

copy_runtime() {
	local node foreign
	node=$(readlink -f "$(command -v node)")
	foreign=$(ldd "$node" | awk '{ print $1 }' | grep -vE "$of_the_system" || true)
	[ -z "$foreign" ] || fail "this machine's Node needs $(tr '\n' ' ' <<<"$foreign"): package with the Node of nodejs.org or NodeSource, which stands alone"
	copy_foreign "$node" runtime/node 755
}

copy_libraries() {
	local libbpf name path
	# To its end: a pipe that is closed early would be a failure.
	libbpf=$(ldconfig -p | awk '$1 == "libbpf.so.1" && !seen { print $NF; seen = 1 }')
	[ -n "$libbpf" ] || fail "libbpf.so.1 is missing: run scripts/setup.sh"
	copy_foreign "$(readlink -f "$libbpf")" lib/libbpf.so.1 644
	while read -r name path; do
		[[ " ${carried[*]} " == *" $name "* ]] || fail "libbpf needs $name, which loadLibbpf (agent/datapath/libbpf.ts) does not open"
		copy_foreign "$(readlink -f "$path")" "lib/$name" 644
	done < <(ldd "$libbpf" | grep -vE "$of_the_system" | awk '{ print $1, $3 }')
}

write_command() { # NAME PROGRAM
	mkdir -p "$target/bin"
	cat >"$target/bin/$1" <<-END
		#!/bin/sh
		here=\$(dirname "\$(readlink -f "\$0")")
		exec "\$here/../runtime/node" "\$here/../dist/$2" "\$@"
	END
	chmod 755 "$target/bin/$1"
}

copy_programs
copy_modules
copy_runtime
copy_libraries
# Linked into it as a whole.
printf '%s\t%s\n' dist/bin/clustermesh-cni "$(readlink -f "$(gcc -print-file-name=libc.a)")" >>"$origins"
write_command clustermesh cli/main.js
write_command clustermesh-agent agent/main.js
write_command clustermesh-apiserver clustermesh-apiserver/main.js
# Copied to where container runtimes look, so it must be the program itself.
ln -s ../dist/bin/clustermesh-cni "$target/bin/clustermesh-cni"
node dist/scripts/package-sbom.js "$target" <"$origins" >"$target/sbom.cdx.json"
chmod -R u=rwX,go=rX "$target"
