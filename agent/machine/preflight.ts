/** What must hold on a machine before it joins: each thing is looked at, and all that is wrong is said at once. */
import { isIP } from 'node:net';
import { describeCertificate, findDateFault } from '../../mesh/runtime/certificate-words.ts';
import type { HostPort } from '../../mesh/runtime/option-parsers.ts';
import { type IpAddress, ipFamily } from '../../mesh/wire/ip.ts';
import { chooseAddresses } from './address-choice.ts';
import { MachineError, reasonOf } from './machine-error.ts';
import { MACHINE_FILES } from './machine-files.ts';
import { hostPortText, type ProbedServer, probeServer } from './server-probe.ts';
import { type DatapathPlace, pinFolder, type Surroundings } from './surroundings.ts';

/** One thing that was looked at. */
export interface CheckFinding {
  readonly check: string;
  /** `bad` keeps the machine from joining. */
  readonly verdict: 'good' | 'odd' | 'bad';
  /** What was found, and what to do where it is not good. */
  readonly text: string;
  /** Nobody answers, which is no fault of this machine. Default: false. */
  readonly isUnreachable?: boolean;
}

/** What the checks found, with what the next steps need of it. */
export interface PreflightResult {
  readonly findings: readonly CheckFinding[];
  /** Undefined where no address could be chosen. */
  readonly addresses: readonly IpAddress[] | undefined;
  /** Undefined where the registry is not to be reached or not believed. */
  readonly server: ProbedServer | undefined;
}

/** What the checks are about. */
export interface PreflightOptions {
  readonly server: HostPort;
  /** SHA-256 of the public key at which the registry's certificate must end. */
  readonly anchor: Buffer;
  /** Addresses that a person chose; empty: they are chosen here. */
  readonly wantedAddresses: readonly IpAddress[];
  readonly stateDir: string;
  readonly socketPath: string;
  readonly tunnelDevice: string;
  readonly place: DatapathPlace;
  readonly surroundings: Surroundings;
  readonly signal: AbortSignal;
}

const REACH_TIMEOUT_MS = 5000;
/** Certificates are valid from five minutes before they are made: a clock further behind takes them for not yet valid. */
const CLOCK_LIMIT_MS = 300_000;
const CLOCK_ODD_MS = 30_000;
/** State, logs of the agent, and certificates of many renewals. */
const DISK_BYTES = 16 * 1024 * 1024;
/** Bytes that VXLAN adds, by the underlay's family; and what must be left, the least that IPv6 allows. */
const VXLAN_OVERHEAD = { 4: 50, 6: 70 } as const;
const LEAST_MTU = 1280;
/** Devices by which other meshes and CNIs are known. */
const OTHERS: readonly (readonly [RegExp, string])[] = [
  [/^cilium_(host|net|vxlan)$/, 'Cilium'],
  [/^flannel[.-]/, 'Flannel'],
  [/^(vxlan(-v6)?\.calico|cali[0-9a-f]{11}|tunl0@.*calico)$/, 'Calico'],
];

/** Looks at everything that can be known before the registry is asked. Changes nothing. */
export async function preflight(options: PreflightOptions): Promise<PreflightResult> {
  const { surroundings } = options;
  const findings: CheckFinding[] = [];
  const { userId } = surroundings;
  if (userId !== 0) {
    const text = `this is user ${userId}: run the command as root (sudo)`;
    return {
      findings: [{ check: 'root', verdict: 'bad', text }],
      addresses: undefined,
      server: undefined,
    };
  }
  findings.push({ check: 'root', verdict: 'good', text: 'this is root' });
  findings.push(...checkDatapath(options), checkDisk(options));
  findings.push(...(await checkOthers(options)));
  const server = await checkRegistry(options, findings);
  const addresses = await checkAddresses(options, findings);
  return { findings, addresses, server };
}

/** Throws MachineError `preflight`, or `unreachable`, with a line for each thing that keeps the machine from joining. */
export function refuseBadFindings(findings: readonly CheckFinding[]): void {
  const bad = findings.filter(({ verdict }) => verdict === 'bad');
  if (bad.length === 0) return;
  const lines = bad.map(({ check, text }) => `${check}: ${text}`);
  const code = bad.every(({ isUnreachable }) => isUnreachable === true)
    ? 'unreachable'
    : 'preflight';
  throw new MachineError(code, `this machine cannot join yet:\n${lines.join('\n')}`);
}

function checkDatapath({ place, surroundings }: PreflightOptions): CheckFinding[] {
  const problems = surroundings.datapathProblems(place);
  if (problems.length > 0) {
    return problems.map((text) => ({ check: 'kernel', verdict: 'bad', text }));
  }
  return [{ check: 'kernel', verdict: 'good', text: 'it has what the datapath needs' }];
}

function checkDisk({ stateDir, surroundings }: PreflightOptions): CheckFinding {
  const free = surroundings.freeBytes(stateDir);
  const mebibytes = Math.floor(free / 1024 / 1024);
  return free >= DISK_BYTES
    ? { check: 'disk', verdict: 'good', text: `${mebibytes} MiB are free for ${stateDir}` }
    : {
        check: 'disk',
        verdict: 'bad',
        text: `${mebibytes} MiB are free for ${stateDir}, ${DISK_BYTES / 1024 / 1024} MiB are needed: free some space, or choose another folder with --state-dir`,
      };
}

async function checkOthers(options: PreflightOptions): Promise<CheckFinding[]> {
  const { surroundings, socketPath, place, stateDir, tunnelDevice, signal } = options;
  const findings: CheckFinding[] = [];
  const bad = (text: string): void => {
    findings.push({ check: 'other agents', verdict: 'bad', text });
  };
  if (await surroundings.isAgentAnswering(socketPath)) {
    bad(
      `an agent answers on ${socketPath}, and it was not made by joining: stop it and run clustermesh-agent cleanup first`,
    );
  }
  const devices = [...(await surroundings.mtus(signal)).keys()];
  for (const [pattern, owner] of OTHERS) {
    const device = devices.find((name) => pattern.test(name));
    if (device !== undefined) {
      bad(
        `${owner} is here (interface ${device}): a node of a cluster is no machine of one; remove ${owner}, or leave this node to its cluster`,
      );
    }
  }
  const pins = surroundings.namesIn(pinFolder(place.bpfRoot));
  const hasDevice = devices.includes(tunnelDevice);
  if (pins.length > 0 || hasDevice) {
    const what = pins.length > 0 ? pinFolder(place.bpfRoot) : `interface ${tunnelDevice}`;
    bad(
      `${what} is left by an agent that was here before: run clustermesh vm leave, which removes it`,
    );
  }
  const known: readonly string[] = Object.values(MACHINE_FILES);
  const foreign = surroundings
    .namesIn(stateDir)
    .filter((name) => !known.includes(name) && !name.startsWith('.certs-'));
  if (foreign.length > 0) {
    findings.push({
      check: 'state',
      verdict: 'odd',
      text: `${stateDir} holds what joining has not written, and leaves alone: ${foreign.slice(0, 5).join(', ')}`,
    });
  }
  if (findings.length === 0) {
    findings.push({ check: 'other agents', verdict: 'good', text: 'there are none' });
  }
  return findings;
}

async function checkRegistry(
  options: PreflightOptions,
  findings: CheckFinding[],
): Promise<ProbedServer | undefined> {
  const { server, anchor, surroundings, signal } = options;
  let probed: ProbedServer;
  try {
    probed = await probeServer(server, { anchor, timeoutMs: REACH_TIMEOUT_MS, signal });
  } catch (error) {
    if (!(error instanceof MachineError)) throw error;
    const isUnreachable = error.code === 'unreachable';
    findings.push({ check: 'registry', verdict: 'bad', text: error.message, isUnreachable });
    return undefined;
  }
  findings.push({
    check: 'registry',
    verdict: 'good',
    text: `${hostPortText(server)} is the one that the token is for`,
  });
  findings.push(judgeClock(probed, surroundings.now()));
  return probed;
}

/** Compares the clocks; where the registry does not tell its own, the dates of its certificate have to do. */
export function judgeClock(
  { now: theirs, certificate }: Pick<ProbedServer, 'now' | 'certificate'>,
  ours: number,
): CheckFinding {
  const check = 'clock';
  const fix = 'set the clock (timedatectl set-ntp true, or chronyc makestep)';
  if (theirs === undefined) {
    const fault = findDateFault(certificate, ours);
    return fault === undefined
      ? { check, verdict: 'good', text: 'it is within the validity of the certificate there' }
      : {
          check,
          verdict: 'bad',
          text: `the registry's ${fault.text}; if the clock is wrong, ${fix}`,
        };
  }
  const seconds = Math.round(Math.abs(ours - theirs) / 1000);
  const both = `${new Date(ours).toISOString()} here, ${new Date(theirs).toISOString()} at the registry`;
  const direction = ours > theirs ? 'ahead of' : 'behind';
  if (Math.abs(ours - theirs) > CLOCK_LIMIT_MS) {
    return {
      check,
      verdict: 'bad',
      text: `it is ${seconds} s ${direction} the registry's (${both}), ${CLOCK_LIMIT_MS / 1000} s are the limit: certificates would not be valid; ${fix}`,
    };
  }
  const fault = findDateFault(certificate, ours);
  if (fault !== undefined) {
    return {
      check: 'registry',
      verdict: 'bad',
      text: `its ${fault.text}: renew it there (${describeCertificate(certificate)})`,
    };
  }
  return Math.abs(ours - theirs) > CLOCK_ODD_MS
    ? { check, verdict: 'odd', text: `it is ${seconds} s ${direction} the registry's: ${fix}` }
    : { check, verdict: 'good', text: "it agrees with the registry's" };
}

async function checkAddresses(
  options: PreflightOptions,
  findings: CheckFinding[],
): Promise<readonly IpAddress[] | undefined> {
  const { server, surroundings, wantedAddresses, signal } = options;
  try {
    const choice = await chooseAddresses({
      host: server.host,
      wanted: wantedAddresses,
      surroundings,
      signal,
    });
    findings.push({ check: 'address', verdict: 'good', text: choice.text });
    findings.push(...judgeMtus(choice.addresses, await surroundings.mtus(signal), surroundings));
    return choice.addresses;
  } catch (error) {
    signal.throwIfAborted();
    findings.push({ check: 'address', verdict: 'bad', text: reasonOf(error) });
    return undefined;
  }
}

function judgeMtus(
  addresses: readonly IpAddress[],
  mtus: ReadonlyMap<string, number>,
  surroundings: Surroundings,
): CheckFinding[] {
  return addresses.map((address) => {
    const family = ipFamily(address);
    const holder = surroundings.ownAddresses().find((own) => own.address === address);
    const name = holder?.interfaceName ?? '';
    const mtu = mtus.get(name) ?? 0;
    const rest = mtu - VXLAN_OVERHEAD[family];
    return rest >= LEAST_MTU
      ? {
          check: 'mtu',
          verdict: 'good',
          text: `${rest} bytes of ${name}'s ${mtu} are left in the tunnel`,
        }
      : {
          check: 'mtu',
          verdict: 'bad',
          text: `${name} with ${address} takes packets of ${mtu} bytes, of which the tunnel uses ${VXLAN_OVERHEAD[family]}: ${LEAST_MTU} must be left; raise it (ip link set ${name} mtu ${LEAST_MTU + VXLAN_OVERHEAD[family]})`,
        };
  });
}

/** Whether a text can be the host of a server: a name or an address. */
export function isHost(text: string): boolean {
  return isIP(text) !== 0 || /^[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?$/.test(text);
}
