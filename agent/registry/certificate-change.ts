/** Goes over to another certificate while a session lasts: only when the registry takes it. */
import { createHash, X509Certificate } from 'node:crypto';
import type { EtcdTls } from '../../mesh/kvstore/etcd-endpoint.ts';
import { findDateFault, findServerFault } from '../../mesh/runtime/certificate-words.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { HostPort } from '../../mesh/runtime/option-parsers.ts';
import { lookAtServer } from '../../mesh/runtime/server-look.ts';

const LOOK_EVERY_MS = 5000;
const PEM_CERTIFICATE = /-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g;

/**
 * Calls `onChange` whenever the files hold other certificates than before and the registry takes them, until `signal` aborts. With
 * files that cannot be used the session goes on as it is; they are tried again until they can, or are replaced.
 */
export async function followCertificates(options: {
  readonly registry: () => HostPort;
  /** Name that the registry's certificate must bear. */
  readonly serverName: string;
  readonly readTls: () => Promise<EtcdTls | undefined>;
  readonly onChange: () => void;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly signal: AbortSignal;
}): Promise<void> {
  const { registry, serverName, readTls, onChange, clock, logger, signal } = options;
  let inUse: string | undefined;
  let told: string | undefined;
  while (!signal.aborted) {
    // Files that are being replaced may not be readable for a moment.
    const tls = await readTls().catch(() => undefined);
    const found = tls === undefined ? undefined : fingerprintOf(tls);
    inUse ??= found;
    if (tls !== undefined && found !== inUse) {
      const { host, port } = registry();
      const reason = await findFault(tls, { host, port, serverName, now: clock.now(), signal });
      if (signal.aborted) return;
      if (reason === undefined) {
        inUse = found;
        told = undefined;
        onChange();
      } else if (reason !== told) {
        told = reason;
        logger.warn({ reason }, 'changed certificates do not work, the session goes on without');
      }
    }
    await clock.sleep(LOOK_EVERY_MS, signal).catch(() => undefined);
  }
}

/** Why a session could not be had with these certificates; undefined when it could. */
async function findFault(
  tls: EtcdTls,
  options: {
    readonly host: string;
    readonly port: number;
    readonly serverName: string;
    readonly now: number;
    readonly signal: AbortSignal;
  },
): Promise<string | undefined> {
  const { host, port, serverName, now, signal } = options;
  let own: X509Certificate | undefined;
  let authorities: X509Certificate[];
  try {
    [own] = certificatesOf(tls.cert);
    authorities = certificatesOf(tls.ca);
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
  const dates = own === undefined ? undefined : findDateFault(own, now);
  if (dates !== undefined) return `our ${dates.text}`;
  const caller = { cert: Buffer.from(tls.cert), key: Buffer.from(tls.key) };
  const look = await lookAtServer({ host, port, name: serverName, caller, signal });
  const fault = findServerFault(look.chain, { authorities, host: serverName, now });
  if (fault !== undefined) return `the registry's ${fault.text}`;
  return look.takesCaller === true ? undefined : `the registry does not take it: ${look.error}`;
}

function certificatesOf(pem: Buffer | string): X509Certificate[] {
  const blocks = pem.toString('latin1').match(PEM_CERTIFICATE) ?? [];
  return blocks.map((block) => new X509Certificate(block));
}

function fingerprintOf(tls: EtcdTls): string {
  const hash = createHash('sha256');
  for (const part of [tls.ca, tls.cert, tls.key]) hash.update(part).update('\0');
  return hash.digest('hex');
}
