/** Records and names for tests: a drop from a pod of beta to one of this node, and a call to a service. */
import { parseIpAddress } from '../../../mesh/wire/ip.ts';
import { DIRECTIONS, EVENT, EVENT_KINDS, FLOW_STATES } from '../../../mesh/wire/maps.ts';
import type { DatapathEvents, EventLosses } from '../../datapath/desired.ts';
import { frame } from '../../datapath/testing/packet.ts';
import type { MonitorNames } from '../names.ts';
import type { PacketRecord, ServiceRecord } from '../record.ts';

/** Of a side of which nothing is known. */
export const NOBODY = {
  identity: undefined,
  reserved: undefined,
  cluster: undefined,
  pod: undefined,
  labels: undefined,
} as const;

/** What node n1 of cluster alpha (1) knows: endpoint 7 is its pod demo/web, beta (2) is a peer. */
export function testNames(): MonitorNames {
  const labels = new Map([
    [65_837, ['k8s:app=web']],
    [131_372, ['k8s:app=client']],
  ]);
  const clusters = new Map([
    [1, 'alpha'],
    [2, 'beta'],
  ]);
  return {
    node: 'n1',
    labelsOf: (identity) => labels.get(identity),
    clusterOf: (identity) => clusters.get(identity >> 16),
    clusterName: (clusterId) => clusters.get(clusterId),
    podOfEndpoint: (endpointId) => (endpointId === 7 ? 'demo/web' : undefined),
    podOfAddress: (address) => (address === '10.1.0.2' ? 'demo/web' : undefined),
    endpointOfInterface: (ifindex) => (ifindex === 11 ? 7 : undefined),
    interfaceName: (ifindex) => (ifindex === 11 ? 'veth7' : undefined),
    serviceOf: ({ address }) => (address === '10.96.0.1' ? 'demo/web' : undefined),
  };
}

/** A denied packet, but for `fields`. */
export function testPacket(
  fields: Partial<Omit<PacketRecord, 'packet'>> & { readonly packet?: Buffer } = {},
): PacketRecord & { readonly packet: Buffer } {
  return {
    kind: 'drop',
    timestampNs: 0n,
    reason: 133,
    direction: 'ingress',
    state: 'unknown',
    ifindex: 11,
    sourceIdentity: 131_372,
    destinationIdentity: 65_837,
    length: 70,
    endpointId: 7,
    packet: frame({
      from: '10.2.0.5',
      to: '10.1.0.2',
      protocol: 'tcp',
      sourcePort: 4444,
      destinationPort: 80,
    }),
    ...fields,
  };
}

/** A translated call, but for `fields`. */
export function testService(fields: Partial<ServiceRecord> = {}): ServiceRecord {
  return {
    kind: 'service',
    timestampNs: 0n,
    reason: 3,
    direction: 'egress',
    protocol: 'TCP',
    frontend: { address: parseIpAddress('10.96.0.1'), port: 80 },
    backend: { address: parseIpAddress('10.2.0.5'), port: 8080, clusterId: 2 },
    cookie: 1n << 40n,
    ...fields,
  };
}

/** The bytes of a packet's record, as a program writes them. */
export function encodePacket(record: PacketRecord): Buffer {
  const { fields } = EVENT;
  const bytes = Buffer.alloc(EVENT.size);
  bytes.writeBigUInt64LE(record.timestampNs, fields.timestampNs);
  bytes.writeUInt8(EVENT_KINDS.indexOf(record.kind) + 1, fields.kind);
  bytes.writeUInt8(record.reason, fields.reason);
  bytes.writeUInt8(DIRECTIONS.indexOf(record.direction), fields.direction);
  bytes.writeUInt8(FLOW_STATES.indexOf(record.state), fields.state);
  bytes.writeUInt32LE(record.ifindex, fields.ifindex);
  bytes.writeUInt32LE(record.sourceIdentity, fields.sourceIdentity);
  bytes.writeUInt32LE(record.destinationIdentity, fields.destinationIdentity);
  bytes.writeUInt32LE(record.length, fields.length);
  bytes.writeUInt16LE(record.endpointId, fields.endpointId);
  bytes.writeUInt16LE(record.packet.length, fields.captured);
  bytes.set(record.packet, fields.packet);
  return bytes;
}

/** A batch of records, each behind its length. */
export function encodeBatch(records: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat(
    records.flatMap((bytes) => {
      const length = Buffer.alloc(4);
      length.writeUInt32LE(bytes.length);
      return [length, bytes];
    }),
  );
}

/** Events that a test makes. */
export interface FakeEvents extends DatapathEvents {
  /** Hands over a batch; lost where nobody reads. */
  emit(...records: readonly Uint8Array[]): void;
  /** Ends the reader with an error. */
  fail(error: Error): void;
  /** What the kernel has been told. */
  readonly state: { readers: number; started: number; level: string };
  /** What `losses()` says. */
  counts: EventLosses[];
  /** Thrown by the next `read`. */
  refusal: Error | undefined;
}

/** Makes events that nobody reads yet. */
export function createFakeEvents(): FakeEvents {
  let listener: Parameters<DatapathEvents['read']>[0] | undefined;
  const state = { readers: 0, started: 0, level: 'unset' };
  return {
    state,
    counts: [],
    refusal: undefined,
    emit: (...records) => listener?.onRecords(encodeBatch(records)),
    fail: (error) => listener?.onFailure(error),
    async read(reader) {
      const { refusal } = this;
      this.refusal = undefined;
      if (refusal !== undefined) throw refusal;
      listener = reader;
      state.readers += 1;
      state.started += 1;
      return {
        async [Symbol.asyncDispose]() {
          state.readers -= 1;
          if (listener === reader) listener = undefined;
        },
      };
    },
    setTraceLevel(level) {
      state.level = level;
    },
    losses() {
      return this.counts;
    },
    interfaceName: () => undefined,
  };
}
