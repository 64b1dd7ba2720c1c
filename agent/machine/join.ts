/** Joining a cluster: check, enrol, check again with what the cluster told, write. Each part can be repeated. */
import { X509Certificate } from 'node:crypto';
import { rmSync } from 'node:fs';
import { join as joinPath } from 'node:path';
import type { HostPort } from '../../mesh/runtime/option-parsers.ts';
import { anchorOf, type EnrollmentToken } from '../../mesh/wire/enrollment-token.ts';
import { type IpAddress, prefixContains } from '../../mesh/wire/ip.ts';
import { lockFolder } from '../datapath/lock.ts';
import { agentCommand, agentPlace } from './agent-command.ts';
import { certificatesIn, dateProblem, type Enrolled, enrol } from './enrolment.ts';
import { etcdClientFile } from './etcd-client-file.ts';
import { MachineError, reasonOf } from './machine-error.ts';
import {
  MACHINE_FILES,
  makeStateFolder,
  readCertificates,
  readMachineFile,
  removeRemains,
  reserveSpace,
  writeCertificates,
  writeMachineFile,
} from './machine-files.ts';
import { type MachineKey, makeMachineKey, readMachineKey } from './machine-key.ts';
import { type MachineRecord, readMachineRecord, writeMachineRecord } from './machine-record.ts';
import { type CheckFinding, preflight, refuseBadFindings } from './preflight.ts';
import { hostPortText } from './server-probe.ts';
import { type Surroundings, thisMachine } from './surroundings.ts';

const RESERVED_BYTES = 256 * 1024;
const REACH_TIMEOUT_MS = 5000;
const PENDING_KEY = joinPath(MACHINE_FILES.pending, 'tls.key');
const MACHINE_NAME = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;

/** What a person asks for. */
export interface JoinOptions {
  /** Where the cluster enrols machines. */
  readonly server: HostPort;
  readonly token: EnrollmentToken;
  readonly name: string;
  /** Chosen by a person; empty: chosen here. */
  readonly addresses: readonly IpAddress[];
  readonly stateDir: string;
  /** Further flags of the agent. */
  readonly agentFlags: readonly string[];
  readonly agentVersion: string;
  /** Told of every step and finding as it comes. */
  readonly onFinding: (finding: CheckFinding) => void;
  readonly onStep: (text: string) => void;
  readonly surroundings?: Surroundings;
  readonly signal: AbortSignal;
}

/** How joining ended. */
export interface JoinResult {
  readonly kind: 'joined' | 'already';
  readonly record: MachineRecord;
  /** When the machine's certificate ends, milliseconds since 1970; it is renewed long before. */
  readonly certificateEndsAt: number;
  /** Program and arguments that start the agent. */
  readonly command: readonly string[];
}

/**
 * Joins. A machine that is a member of that cluster already is only looked at. Throws MachineError and leaves nothing in use then;
 * a key that the registry may know is kept, so that the same token can be used again.
 */
export async function joinCluster(options: JoinOptions): Promise<JoinResult> {
  const { stateDir, token, onStep } = options;
  if (!MACHINE_NAME.test(options.name)) {
    throw new MachineError(
      'usage',
      `cannot use the name ${JSON.stringify(options.name)}: expected 1 to 63 of a-z, 0-9 and "-", as a DNS label; choose one with --name`,
    );
  }
  const before = readMachineRecord(stateDir);
  if (before !== undefined) return checkMember(before, options);
  const place = agentPlace(options.agentFlags);
  const surroundings = options.surroundings ?? thisMachine();
  onStep('looking at this machine');
  const checked = await preflight({
    server: options.server,
    anchor: token.anchor,
    wantedAddresses: options.addresses,
    stateDir,
    socketPath: place.socketPath,
    tunnelDevice: place.tunnelDevice,
    place,
    surroundings,
    signal: options.signal,
  });
  checked.findings.forEach(options.onFinding);
  refuseBadFindings(checked.findings);
  const { server: probed, addresses } = checked;
  if (probed === undefined || addresses === undefined) {
    throw new MachineError('preflight', 'this machine cannot join yet: see above');
  }
  makeStateFolder(stateDir);
  using _lock = lockState(stateDir);
  removeRemains(stateDir);
  const reserved = reserveSpace(stateDir, RESERVED_BYTES);
  let enrolled: Enrolled;
  let key: MachineKey;
  try {
    key = await pendingKey(stateDir);
    onStep(`enrolling as ${options.name} at ${hostPortText(options.server)}`);
    enrolled = await enrol(options.server, {
      probed,
      token,
      key,
      machineName: options.name,
      addresses,
      agentVersion: options.agentVersion,
      signal: options.signal,
    });
    onStep(`cluster ${enrolled.clusterName} takes this machine; looking at the ways to it`);
    const findings = await checkWays(enrolled, { addresses, surroundings, signal: options.signal });
    findings.forEach(options.onFinding);
    refuseBadFindings(findings);
  } finally {
    reserved[Symbol.dispose]();
  }
  const record: MachineRecord = {
    name: enrolled.machineName,
    clusterName: enrolled.clusterName,
    clusterId: enrolled.clusterId,
    maxConnectedClusters: enrolled.maxConnectedClusters,
    namespace: enrolled.namespace,
    labels: enrolled.labels,
    addresses,
    hasFixedAddresses: options.addresses.length > 0,
    registries: enrolled.registries,
    etcdEndpoints: enrolled.etcdEndpoints,
    serverName: enrolled.serverName,
    tunnelPort: enrolled.tunnelPort,
    podNetworks: enrolled.podNetworks,
    agentFlags: options.agentFlags,
    joinedAt: new Date(surroundings.now()).toISOString(),
  };
  onStep(`writing ${stateDir}`);
  writeState(stateDir, { enrolled, key, record });
  return resultOf('joined', { record, stateDir, certificate: enrolled.certificate });
}

/** Everything that the agent needs; `machine.json` last, since it says that all of it is there. */
function writeState(
  stateDir: string,
  state: {
    readonly enrolled: Enrolled;
    readonly key: MachineKey;
    readonly record: MachineRecord;
  },
): void {
  const { enrolled, key, record } = state;
  writeCertificates(stateDir, {
    ca: enrolled.trustBundle,
    certificate: enrolled.certificate,
    key: key.privatePem,
  });
  writeMachineFile(stateDir, MACHINE_FILES.etcdConfig, etcdClientFile(stateDir, record));
  makeStateFolder(joinPath(stateDir, MACHINE_FILES.peers));
  const settings = `# Read by the agent's service. Settings of clustermesh-agent may be added, a line each.\nISTHMUS_MACHINE=true\nISTHMUS_STATE_DIR=${stateDir}\n`;
  writeMachineFile(stateDir, MACHINE_FILES.environment, settings);
  writeMachineRecord(stateDir, record);
  // It is among the certificates now.
  rmSync(joinPath(stateDir, MACHINE_FILES.pending), { recursive: true, force: true });
}

/** A second call on a machine that has joined: harmless where it is the same cluster. */
function checkMember(record: MachineRecord, options: JoinOptions): JoinResult {
  const { stateDir, token, surroundings = thisMachine() } = options;
  const certificates = readCertificates(stateDir);
  const leave = 'run clustermesh vm leave first';
  if (certificates === undefined) {
    throw new MachineError(
      'state',
      `${stateDir} says that this machine is ${record.name} of cluster ${record.clusterName}, but its certificates are gone: ${leave}`,
    );
  }
  const isSameCluster = certificatesIn(certificates.ca).some((authority) =>
    anchorOf(authority.raw).equals(token.anchor),
  );
  if (!isSameCluster) {
    throw new MachineError(
      'other',
      `this machine is ${record.name} of cluster ${record.clusterName}, and the token is of another cluster: to move it, ${leave}`,
    );
  }
  if (record.name !== options.name) {
    throw new MachineError(
      'other',
      `this machine is ${record.name} of cluster ${record.clusterName} already: to join as ${options.name}, ${leave}`,
    );
  }
  const problem = dateProblem(certificates.certificate, surroundings.now());
  if (problem !== undefined) throw new MachineError('state', problem);
  if (readMachineFile(stateDir, MACHINE_FILES.etcdConfig) === undefined) {
    writeMachineFile(stateDir, MACHINE_FILES.etcdConfig, etcdClientFile(stateDir, record));
  }
  return resultOf('already', { record, stateDir, certificate: certificates.certificate });
}

function resultOf(
  kind: JoinResult['kind'],
  of: { readonly record: MachineRecord; readonly stateDir: string; readonly certificate: string },
): JoinResult {
  const { record, stateDir, certificate } = of;
  return {
    kind,
    record,
    certificateEndsAt: Date.parse(new X509Certificate(certificate).validTo),
    command: agentCommand(stateDir, record.agentFlags),
  };
}

/** What can be looked at only when the cluster has told where its parts are. */
async function checkWays(
  enrolled: Enrolled,
  options: {
    readonly addresses: readonly IpAddress[];
    readonly surroundings: Surroundings;
    readonly signal: AbortSignal;
  },
): Promise<CheckFinding[]> {
  const { addresses, surroundings, signal } = options;
  const findings = [judgeNat(enrolled, surroundings), ...judgeConflicts(enrolled, addresses)];
  const date = dateProblem(enrolled.certificate, surroundings.now());
  if (date !== undefined) findings.push({ check: 'clock', verdict: 'bad', text: date });
  const holder = surroundings.udpPortHolder(enrolled.tunnelPort);
  findings.push(
    holder === undefined
      ? { check: 'tunnel', verdict: 'good', text: `UDP port ${enrolled.tunnelPort} is free` }
      : {
          check: 'tunnel',
          verdict: 'bad',
          text: `UDP port ${enrolled.tunnelPort} is the cluster's tunnel port, and ${holder} has it here: stop it`,
        },
  );
  const gates = enrolled.etcdEndpoints.map((url) => endpointOf(url));
  findings.push(await judgeReach('gate', gates, { surroundings, signal }));
  findings.push(await judgeReach('registry', enrolled.registries, { surroundings, signal }));
  return findings;
}

function judgeNat({ observedAddress }: Enrolled, surroundings: Surroundings): CheckFinding {
  const own = surroundings.ownAddresses().map(({ address }) => address);
  if (
    observedAddress === undefined ||
    own.includes(observedAddress) ||
    isLoopback(observedAddress)
  ) {
    return {
      check: 'nat',
      verdict: 'good',
      text: 'the cluster sees this machine by its own address',
    };
  }
  return {
    check: 'nat',
    verdict: 'bad',
    text: `the cluster sees this machine at ${observedAddress}, which is none of its own addresses (${own.join(', ')}): its address is translated on the way, and tunnel packets of the cluster would not find back; connect it by a network without address translation, such as a VPN, and join by its address there`,
  };
}

/** The registry runs on this very machine. */
function isLoopback(address: IpAddress): boolean {
  return address.startsWith('127.') || address === '::1';
}

function judgeConflicts(enrolled: Enrolled, addresses: readonly IpAddress[]): CheckFinding[] {
  const conflicts = addresses.flatMap((address) =>
    enrolled.podNetworks
      .filter((network) => prefixContains(network, address))
      .map((network) => `${address} lies in ${network}`),
  );
  if (conflicts.length === 0) return [];
  return [
    {
      check: 'address',
      verdict: 'bad',
      text: `${conflicts.join(', ')}, which cluster ${enrolled.clusterName} gives to pods: choose another address with --address, or give this machine one`,
    },
  ];
}

/** One of several is enough: the others may be replicas that are away. */
async function judgeReach(
  check: string,
  servers: readonly HostPort[],
  options: { readonly surroundings: Surroundings; readonly signal: AbortSignal },
): Promise<CheckFinding> {
  const { surroundings, signal } = options;
  const problems = await Promise.all(
    servers.map((server) =>
      surroundings.connectProblem(server, { timeoutMs: REACH_TIMEOUT_MS, signal }),
    ),
  );
  const reached = servers.filter((_, index) => problems[index] === undefined);
  const texts = servers.map(
    (server, index) => `${hostPortText(server)}: ${problems[index] ?? 'is reached'}`,
  );
  return reached.length > 0
    ? { check, verdict: reached.length < servers.length ? 'odd' : 'good', text: texts.join('; ') }
    : {
        check,
        verdict: 'bad',
        text: `no ${check} of the cluster is reached (${texts.join('; ')}): open these TCP ports towards it, or correct --advertise-${check} of its clustermesh-apiserver`,
      };
}

function endpointOf(url: string): HostPort {
  const { hostname, port } = new URL(url);
  return { host: hostname.replace(/^\[|\]$/g, ''), port: port === '' ? 443 : Number(port) };
}

/** The key of an enrolment whose answer was lost, or a new one; on the disk before the registry hears of it. */
async function pendingKey(stateDir: string): Promise<MachineKey> {
  const before = readMachineFile(stateDir, PENDING_KEY);
  if (before !== undefined) {
    try {
      return readMachineKey(before);
    } catch (error) {
      if (!(error instanceof MachineError)) throw error;
      // It was damaged, so nobody can use it: the registry says whether the token is good for another.
    }
  }
  const key = await makeMachineKey();
  makeStateFolder(joinPath(stateDir, MACHINE_FILES.pending));
  writeMachineFile(stateDir, PENDING_KEY, key.privatePem);
  return key;
}

function lockState(stateDir: string): Disposable {
  try {
    return lockFolder(stateDir);
  } catch (cause) {
    throw new MachineError(
      'other',
      `another clustermesh vm join, or an agent, is at work in ${stateDir}: ${reasonOf(cause)}`,
      { cause },
    );
  }
}
