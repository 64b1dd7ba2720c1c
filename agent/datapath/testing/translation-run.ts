/** Programs over a small world in which an endpoint calls services, and what becomes of its packets. */
import { parseIpAddress } from '../../../mesh/wire/ip.ts';
import type { Backend, FrontendEntry } from '../desired.ts';
import { withChecksums } from './checksum.ts';
import { frame, type PacketSpec } from './packet.ts';
import { readVerified } from './packet-reader.ts';
import {
  type Outcome,
  openProgramRun,
  type ProgramRun,
  testEndpoint,
  testPrefix,
} from './program-run.ts';
import { testFrontend } from './service-maps.ts';

/** Of every pod behind the tunnel. */
export const REMOTE_IDENTITY = 0x20000 + 500;

/** The addresses of one family: client and server on this node, a server behind the tunnel, one behind a route, a frontend. */
export const FAMILIES = {
  4: {
    client: '10.1.0.2',
    local: '10.1.0.3',
    remote: '10.2.0.7',
    outside: '192.0.2.9',
    service: '172.20.0.1',
    loopback: '169.254.42.1',
  },
  6: {
    client: 'fd01::2',
    local: 'fd01::3',
    remote: 'fd02::7',
    outside: '2001:db8::9',
    service: 'fd00::a1',
    loopback: '100:0:0:1::1',
  },
} as const;

/** Addresses of one family. */
export type Family = (typeof FAMILIES)[4 | 6];
/** Protocols that services have. */
export type TestProtocol = 'tcp' | 'udp' | 'sctp';

/** Opens a run with two endpoints and a peer behind the tunnel. */
export async function openTranslationRun(): Promise<ProgramRun> {
  const run = await openProgramRun();
  run.tables.endpoints.apply({
    upserts: [
      testEndpoint(1, '10.1.0.2', { addresses: addresses('10.1.0.2', 'fd01::2') }),
      testEndpoint(2, '10.1.0.3', {
        addresses: addresses('10.1.0.3', 'fd01::3'),
        mac: '0a:00:00:00:00:02',
      }),
    ],
    deletes: [],
  });
  const peer = { tunnelEndpoint: '192.0.2.2', clusterId: 2 };
  run.tables.ipcache.apply({
    upserts: [
      testPrefix('10.2.0.0/24', REMOTE_IDENTITY, peer),
      testPrefix('fd02::/64', REMOTE_IDENTITY, peer),
      testPrefix('192.0.2.2/32', 6, { clusterId: 2 }),
    ],
    deletes: [],
  });
  return run;
}

const addresses = (...texts: string[]) => texts.map((text) => parseIpAddress(text));

/** A backend of the peer. */
export function peerBackend(address: string, port = 8080, protocol: TestProtocol = 'tcp'): Backend {
  return { address: parseIpAddress(address), port, protocol: protocolName(protocol), clusterId: 2 };
}

/** As Services spell it. */
export const protocolName = (protocol: TestProtocol): 'TCP' | 'UDP' | 'SCTP' =>
  (({ tcp: 'TCP', udp: 'UDP', sctp: 'SCTP' }) as const)[protocol];

/** Writes the frontend of a family, with backends at these addresses. */
export function serve(
  run: ProgramRun,
  family: Family,
  options: Partial<FrontendEntry> & {
    to: string[];
    protocol?: never;
    over?: TestProtocol;
    backendPort?: number;
  },
): void {
  const { to, over = 'tcp', backendPort = 8080, ...fields } = options;
  const row = testFrontend(
    to.map((address) => peerBackend(address, backendPort, over)),
    { address: parseIpAddress(family.service), port: 80, protocol: protocolName(over), ...fields },
  );
  run.tables.services.apply({ upserts: [row], deletes: [] });
}

/** A frame with right checksums. */
export const bytes = (spec: PacketSpec): Buffer => withChecksums(frame(spec));

/** What a program did, and what the packet says then, or what is wrong with it. */
export const outcome = ({ kind }: Outcome, run: ProgramRun): string =>
  `${kind} ${readVerified(run.output())}`;
