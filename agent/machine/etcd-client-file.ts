/** How a machine reaches its cluster's etcd, and through it all peers: a file in the format of Cilium's etcd client. Pure. */
import { isIP } from 'node:net';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { MACHINE_FILES } from './machine-files.ts';

/**
 * Text of the file. Servers' certificates bear no addresses, so an endpoint at an address is dialled by `serverName`, which the
 * file says the address of.
 */
export function etcdClientFile(
  folder: string,
  options: { readonly etcdEndpoints: readonly string[]; readonly serverName: string },
): string {
  const { etcdEndpoints, serverName } = options;
  const aliases: string[] = [];
  const endpoints = etcdEndpoints.map((endpoint) => {
    const url = new URL(endpoint);
    const host = url.hostname.replace(/^\[|\]$/g, '');
    if (isIP(host) === 0) return endpoint;
    if (!aliases.includes(host)) aliases.push(host);
    return `https://${serverName}:${url.port === '' ? '443' : url.port}`;
  });
  const certificates = join(folder, MACHINE_FILES.certificates);
  return stringify({
    endpoints: [...new Set(endpoints)],
    'trusted-ca-file': join(certificates, 'ca.crt'),
    'cert-file': join(certificates, 'tls.crt'),
    'key-file': join(certificates, 'tls.key'),
    ...(aliases.length === 0
      ? {}
      : { 'cilium-host-aliases': [{ hostname: serverName, ips: aliases }] }),
  });
}
