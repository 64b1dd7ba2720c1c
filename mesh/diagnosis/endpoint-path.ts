/** The way to a server, as far as TLS: its name, the connection, what each side thinks of the other's certificate. */
import { X509Certificate } from 'node:crypto';
import { lookup } from 'node:dns/promises';
import { connect, isIP } from 'node:net';
import { type EtcdTls, type HostAlias, parseUrl } from '../kvstore/etcd-endpoint.ts';
import {
  type CertificateFault,
  describeCertificate,
  findDateFault,
  findServerFault,
} from '../runtime/certificate-words.ts';
import type { Clock } from '../runtime/clock.ts';
import { lookAtServer } from '../runtime/server-look.ts';
import { type Problem, problemOf } from './problem.ts';
import type { ProblemId } from './problems.ts';
import type { StepList, StepResult } from './step-list.ts';

/** How long a connection may take to be made, or refused. */
const CONNECT_TIMEOUT_MS = 3_000;
const PEM_CERTIFICATE = /-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g;
/** Addresses of one peer that are tried. */
const MOST_PLACES = 6;

const SERVER_FAULTS: Readonly<Record<CertificateFault, ProblemId>> = {
  expired: 'peer-certificate-expired',
  'not-yet-valid': 'peer-certificate-not-yet-valid',
  'wrong-ca': 'peer-wrong-ca',
  'wrong-name': 'peer-wrong-name',
};

/** Where a server is. */
export interface ServerPlace {
  readonly url: string;
  /** Name that its certificate must be for. */
  readonly name: string;
  /** Address that is dialled. */
  readonly address: string;
  readonly port: number;
  readonly isSecure: boolean;
}

/** What a look at endpoints is given. */
export interface EndpointPathOptions {
  readonly peer: string;
  readonly endpoints: readonly string[];
  readonly hostAliases: readonly HostAlias[];
  readonly tls: EtcdTls | undefined;
  readonly clock: Clock;
  readonly signal: AbortSignal;
}

/** What was found at the endpoints. */
export interface FoundServers {
  /** Places that could be connected to. */
  readonly places: readonly ServerPlace[];
  /** Names in their certificates. */
  readonly names: readonly string[];
}

/** Adds the steps `dns`, `tcp` and `tls`. */
export async function followEndpoints(
  list: StepList,
  options: EndpointPathOptions,
): Promise<FoundServers> {
  let places: readonly ServerPlace[] = [];
  const names: string[] = [];
  await list.next('dns', async () => {
    const { found, result } = await resolvePlaces(options);
    places = found;
    return result;
  });
  await list.next('tcp', async () => {
    const { open, result } = await connectPlaces(places, options);
    places = open;
    return result;
  });
  await list.next('tls', () => lookAtPlaces(places, { ...options, names }));
  return { places, names };
}

async function resolvePlaces(
  options: EndpointPathOptions,
): Promise<{ found: readonly ServerPlace[]; result: StepResult }> {
  const found: ServerPlace[] = [];
  const seen: string[] = [];
  let unknown: string | undefined;
  for (const url of options.endpoints) {
    const { host, port, secure } = parseUrl(url);
    const place = { url, name: host, port, isSecure: secure };
    const alias = options.hostAliases.find(({ hostname }) => hostname === host);
    const add = (addresses: readonly string[], how: string): void => {
      seen.push(`${host}: ${addresses.join(', ')}${how}`);
      found.push(...addresses.map((address) => ({ ...place, address })));
    };
    if (isIP(host) !== 0) add([host], ' (an address)');
    else if (alias !== undefined) add(alias.ips, ' (host alias)');
    else {
      try {
        const answers = await lookup(host, { all: true });
        add(
          answers.map(({ address }) => address),
          '',
        );
      } catch (error) {
        unknown ??= host;
        seen.push(`${host}: ${messageOf(error)}`);
      }
    }
  }
  const problem =
    unknown === undefined
      ? undefined
      : softened(
          problemOf('peer-dns', {
            subject: `peer ${options.peer}`,
            cause: `the name ${unknown} of its endpoint cannot be resolved here`,
            values: { peer: options.peer, host: unknown },
          }),
          found.length > 0,
        );
  return { found: found.slice(0, MOST_PLACES), result: { seen, problem } };
}

async function connectPlaces(
  places: readonly ServerPlace[],
  { peer, signal }: EndpointPathOptions,
): Promise<{ open: readonly ServerPlace[]; result: StepResult }> {
  const tried = await Promise.all(
    places.map(async (place) => ({ place, error: await dial(place, signal) })),
  );
  const open = tried.filter(({ error }) => error === undefined).map(({ place }) => place);
  const seen = tried.map(
    ({ place, error }) => `${placeText(place)}: ${error?.message ?? 'connected'}`,
  );
  const first = tried.find(({ error }) => error !== undefined);
  if (first?.error === undefined) return { open, result: { seen } };
  const { address, port } = first.place;
  const isRefused = first.error.code === 'ECONNREFUSED';
  const problem = problemOf(isRefused ? 'peer-port-closed' : 'peer-filtered', {
    subject: `peer ${peer}`,
    cause: isRefused
      ? `${placeText(first.place)} refuses the connection: the host is there, and nothing listens on port ${port}`
      : `nothing answers at ${placeText(first.place)}: ${first.error.message}`,
    values: { peer, host: address, port: String(port) },
  });
  return { open, result: { seen, problem: softened(problem, open.length > 0) } };
}

async function lookAtPlaces(
  places: readonly ServerPlace[],
  options: EndpointPathOptions & { readonly names: string[] },
): Promise<StepResult> {
  const { tls } = options;
  if (tls === undefined) {
    return { seen: ['the endpoints are http://: no certificates are used'], isSkipped: true };
  }
  const looks = await Promise.all(places.map((place) => lookAtPlace(place, { ...options, tls })));
  const isAnyGood = looks.some(({ problem }) => problem === undefined);
  const [first] = looks.flatMap(({ problem }) => (problem === undefined ? [] : [problem]));
  return {
    seen: [...describeOwn(tls), ...looks.flatMap(({ seen }) => seen)],
    problem: first === undefined ? undefined : softened(first, isAnyGood),
  };
}

async function lookAtPlace(
  place: ServerPlace,
  options: EndpointPathOptions & { readonly tls: EtcdTls; readonly names: string[] },
): Promise<StepResult> {
  const { peer, tls, clock, signal } = options;
  const subject = `peer ${peer}`;
  const name = tls.serverName ?? place.name;
  const caller = { cert: Buffer.from(tls.cert), key: Buffer.from(tls.key) };
  const look = await lookAtServer({ host: place.address, port: place.port, name, caller, signal });
  const seen = look.chain.map(
    (certificate, index) =>
      `${placeText(place)} shows [${index}] ${describeCertificate(certificate)}`,
  );
  const alternatives = look.chain[0]?.subjectAltName?.split(', ') ?? [];
  options.names.push(...alternatives.map((text) => text.replace(/^DNS:/, '')));
  const make = (id: ProblemId, cause: string, values: Record<string, string> = {}): StepResult => ({
    seen,
    problem: problemOf(id, { subject, cause, values: { peer, ...values } }),
  });
  const now = clock.now();
  const [own] = parseCertificates(tls.cert);
  const authorities = parseCertificates(tls.ca);
  const ownFault = own === undefined ? undefined : findDateFault(own, now);
  if (ownFault !== undefined)
    return make(`own-certificate-${ownFault.fault}`, `our ${ownFault.text}`);
  if (look.chain.length === 0) {
    return make(
      'peer-no-tls',
      `${placeText(place)} does not speak TLS: ${look.error ?? 'it shows no certificate'}`,
    );
  }
  const fault = findServerFault(look.chain, { authorities, host: name, now });
  if (fault !== undefined) {
    return make(SERVER_FAULTS[fault.fault], `its server ${fault.text}`, { host: name });
  }
  if (look.takesCaller === false && own !== undefined) {
    return make(
      'own-certificate-refused',
      `its server refuses our certificate (${describeCertificate(own)}, issued by ${own.issuer.replaceAll('\n', ', ')}): it does not trust that authority for us, or has revoked it`,
    );
  }
  return { seen };
}

function describeOwn({ cert, ca }: EtcdTls): string[] {
  const [own] = parseCertificates(cert);
  return [
    ...(own === undefined ? [] : [`we show ${describeCertificate(own)}`]),
    ...parseCertificates(ca).map((authority) => `we trust ${describeCertificate(authority)}`),
  ];
}

/** The error, or undefined when it connects. */
function dial(
  { address, port }: ServerPlace,
  signal: AbortSignal,
): Promise<{ readonly code: string | undefined; readonly message: string } | undefined> {
  return new Promise((resolve) => {
    const socket = connect({ host: address, port, timeout: CONNECT_TIMEOUT_MS });
    const end = (error?: { code: string | undefined; message: string }): void => {
      signal.removeEventListener('abort', onAbort);
      socket.destroy();
      resolve(error);
    };
    const onAbort = (): void => end({ code: undefined, message: 'there was no time left' });
    signal.addEventListener('abort', onAbort, { once: true });
    socket.once('connect', () => end());
    socket.once('timeout', () =>
      end({ code: 'ETIMEDOUT', message: `no answer within ${CONNECT_TIMEOUT_MS / 1000} s` }),
    );
    socket.once('error', (error: NodeJS.ErrnoException) =>
      end({ code: error.code, message: error.message }),
    );
    if (signal.aborted) onAbort();
  });
}

/** With another place that works it is no error. */
function softened(problem: Problem, isAnotherGood: boolean): Problem {
  return isAnotherGood ? { ...problem, severity: 'warning' } : problem;
}

function placeText({ name, address, port }: ServerPlace): string {
  const host = address.includes(':') ? `[${address}]` : address;
  return name === address ? `${host}:${port}` : `${host}:${port} (${name})`;
}

/** Certificates of a PEM file; what cannot be read is left out: whoever uses the file says so. */
function parseCertificates(pem: string | Buffer): X509Certificate[] {
  return (pem.toString('latin1').match(PEM_CERTIFICATE) ?? []).flatMap((block) => {
    try {
      return [new X509Certificate(block)];
    } catch {
      return [];
    }
  });
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
