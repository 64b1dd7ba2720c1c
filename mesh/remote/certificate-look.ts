/** Why certificates keep a connection from being made: found out beside it, since TLS itself says neither which nor until when. */
import { X509Certificate } from 'node:crypto';
import { type EtcdTls, type HostAlias, parseUrl } from '../kvstore/etcd-endpoint.ts';
import { KvError } from '../kvstore/kvstore.ts';
import {
  type CertificateFault,
  describeCertificate,
  findDateFault,
  findServerFault,
} from '../runtime/certificate-words.ts';
import type { Clock } from '../runtime/clock.ts';
import { lookAtServer } from '../runtime/server-look.ts';

/** Servers are looked at no oftener than this, however often a connection fails. */
const LOOK_AGAIN_MS = 5000;
const ADVICE: Readonly<Record<CertificateFault, string>> = {
  expired: 'renew it, and check the clocks',
  'not-yet-valid': 'check the clocks',
  'wrong-ca': 'put the CA of that cluster into trusted-ca-file',
  'wrong-name': 'its names must hold the one in endpoints',
};
const PEM_CERTIFICATE = /-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g;

/**
 * Makes the function that says what is wrong with certificates when a connection to `endpoints` has failed. It answers at once:
 * of our own certificate what its dates tell, of the server's what the latest look has found, and looks again behind the
 * scenes. Undefined: nothing is known to be wrong with them.
 */
export function createCertificateLook(options: {
  readonly endpoints: readonly string[];
  readonly tls: EtcdTls;
  /** Addresses of names, as of the latest connection. */
  readonly aliases: () => readonly HostAlias[];
  readonly clock: Clock;
}): (error: unknown) => string | undefined {
  const { endpoints, tls, aliases, clock } = options;
  const [own] = parse(tls.cert);
  const authorities = parse(tls.ca);
  let found: string | undefined;
  let lookedAt: number | undefined;

  const look = async (url: string): Promise<void> => {
    const { host, port } = parseUrl(url);
    const address = aliases().find(({ hostname }) => hostname === host)?.ips[0] ?? host;
    const name = tls.serverName ?? host;
    const caller = { cert: Buffer.from(tls.cert), key: Buffer.from(tls.key) };
    const seen = await lookAtServer({ host: address, port, name, caller });
    const fault = findServerFault(seen.chain, { authorities, host: name, now: clock.now() });
    if (fault !== undefined) found = `its server ${fault.text}: ${ADVICE[fault.fault]}`;
    else if (seen.takesCaller === false && own !== undefined) {
      found = `the server refuses our certificate (${describeCertificate(own)}, issued by ${own.issuer.replaceAll('\n', ', ')}): check cert-file and key-file, and that its trust holds our CA; its log says why`;
    } else found = undefined;
  };

  return (error) => {
    if (!(error instanceof KvError)) return undefined;
    if (error.code !== 'unauthenticated' && error.code !== 'unavailable') return undefined;
    const fault = own === undefined ? undefined : findDateFault(own, clock.now());
    if (fault !== undefined) return `our ${fault.text}: ${ADVICE[fault.fault]}`;
    const url = endpoints.find((endpoint) => error.message.includes(endpoint)) ?? endpoints[0];
    const isDue = lookedAt === undefined || clock.monotonic() - lookedAt >= LOOK_AGAIN_MS;
    if (isDue && url !== undefined) {
      lookedAt = clock.monotonic();
      // It never rejects, and ends within seconds whatever the server does.
      void look(url);
    }
    return found;
  };
}

/** Certificates of a PEM file; one that cannot be read is nothing that a connection would fail of, and is left out. */
function parse(pem: string | Buffer): X509Certificate[] {
  return (pem.toString('latin1').match(PEM_CERTIFICATE) ?? []).flatMap((block) => {
    try {
      return [new X509Certificate(block)];
    } catch {
      return [];
    }
  });
}
