#!/bin/sh
# Makes an image of a Debian that has the program in /opt/isthmus: called by the Dockerfile, as root, last of all.
set -eu
user=65532

for name in clustermesh clustermesh-agent clustermesh-apiserver clustermesh-cni; do
	ln -sf "../../opt/isthmus/bin/$name" "/usr/bin/$name"
done

# A name for the user that it runs as; it can log in nowhere.
if ! grep -q "^[^:]*:[^:]*:$user:" /etc/passwd; then
	echo "isthmus:x:$user:$user::/nonexistent:/usr/sbin/nologin" >>/etc/passwd
	echo "isthmus:x:$user:" >>/etc/group
fi
# Volumes that an engine makes take over the owner of what they cover.
mkdir -p /var/lib/isthmus/apiserver
chown "$user:$user" /var/lib/isthmus/apiserver
chmod 700 /var/lib/isthmus/apiserver

# The Debian packages of the image, beside the program's own list (CycloneDX 1.5).
tab=$(printf '\t')
dpkg-query -W -f='${Package}\t${Version}\t${Architecture}\n' | LC_ALL=C sort | {
	printf '{"bomFormat":"CycloneDX","specVersion":"1.5","version":1,"components":['
	separator=
	while IFS=$tab read -r name version architecture; do
		escaped=$(printf %s "$version" | sed 's/%/%25/g; s/:/%3A/g; s/+/%2B/g')
		printf '%s\n{"bom-ref":"deb:%s@%s","type":"library","name":"%s","version":"%s","purl":"pkg:deb/debian/%s@%s?arch=%s"}' \
			"$separator" "$name" "$version" "$name" "$version" "$name" "$escaped" "$architecture"
		separator=,
	done
	printf '\n]}\n'
} >/opt/isthmus/sbom-system.cdx.json

# What cannot start is no image.
for name in clustermesh clustermesh-agent clustermesh-apiserver; do "/usr/bin/$name" --help >/dev/null; done
etcd --version >/dev/null
