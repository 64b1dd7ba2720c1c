/** Where a machine of a lab lives: a host on the underlay that is no node of anybody. */
import { join } from 'node:path';
import { type IpAddress, parseIpAddress } from '../../mesh/wire/ip.ts';
import type { MachineTopology } from './topology.ts';

/** A machine outside Kubernetes: a network namespace on the underlay, with a cgroup and a folder in the lab's bpffs. */
export interface MachinePlan extends MachineTopology {
  /** Number among the lab's machines, from 1; also the last part of its underlay addresses. */
  readonly number: number;
  readonly netns: string;
  /** Interface on the fabric's side. */
  readonly port: string;
  /** Underlay addresses, IPv4 before IPv6. */
  readonly addresses: readonly IpAddress[];
  readonly cgroup: string;
  readonly bpfRoot: string;
  readonly folder: string;
  /** Where joining keeps what it is given: certificates, the agent's options. */
  readonly stateDir: string;
  readonly socketPath: string;
}

/** Places a machine. Its addresses are apart from those of nodes, in the same network. */
export function planMachine(
  machine: MachineTopology,
  lab: {
    readonly name: string;
    readonly folder: string;
    readonly bpffs: string;
    readonly cgroup: string;
    readonly number: number;
  },
): MachinePlan {
  const { number } = lab;
  const folder = join(lab.folder, 'machines', machine.name);
  return {
    ...machine,
    number,
    netns: `isthmus-${lab.name}-m-${machine.name}`,
    port: `m${number}`,
    addresses: machineAddresses(machine.family, `1.${number}`, `1:${number.toString(16)}`),
    cgroup: join(lab.cgroup, `machine-${machine.name}`),
    bpfRoot: join(lab.bpffs, `machine-${machine.name}`),
    folder,
    stateDir: join(folder, 'state'),
    socketPath: join(folder, 'agent.sock'),
  };
}

/** Underlay addresses of the families that a machine has, by their last two parts. */
export function machineAddresses(
  family: MachineTopology['family'],
  v4: string,
  v6: string,
): IpAddress[] {
  return [
    ...(family === 'ipv6' ? [] : [parseIpAddress(`172.31.${v4}`)]),
    ...(family === 'ipv4' ? [] : [parseIpAddress(`fd00:31::${v6}`)]),
  ];
}
