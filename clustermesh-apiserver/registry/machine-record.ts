/** What is kept of a machine over restarts, and how it stands in etcd. Pure. */
import { z } from 'zod';
import {
  type IpAddress,
  type IpPrefix,
  parseIpAddress,
  parseIpPrefix,
} from '../../mesh/wire/ip.ts';
import { REGISTRY_PREFIX } from '../../mesh/wire/keys.ts';
import type { Machine, MachineEndpoint } from '../convert/machine.ts';

/** Where machines are kept, by name. */
export const MACHINES_PREFIX = `${REGISTRY_PREFIX}machines/`;

const SCHEMA = 1;
const MACHINE_NAME = /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/;

/** A public key that a certificate was given for. */
export interface MachineKey {
  /** SHA-256 of the key (SPKI, DER) in lower-case hex. */
  readonly hash: string;
  /** When its certificate runs out, milliseconds since 1970. */
  readonly expiresAt: number;
}

/** What a machine's agent says of one check. */
export interface CheckStanding {
  readonly healthy: boolean;
  /** Why it is not; empty when it is. */
  readonly reason: string;
}

/** A machine as the cluster knows it. Times are milliseconds since 1970. */
export interface MachineRecord {
  readonly name: string;
  readonly namespace: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Networks that its addresses have to be in; none: no network is ruled out. */
  readonly addressRanges: readonly IpPrefix[];
  /** Of the newest certificate: SHA-256 of its public key (SPKI, DER) in lower-case hex. */
  readonly publicKeyHash: string;
  /** Keys with certificates that have not run out, the newest last. */
  readonly keys: readonly MachineKey[];
  /** Keys of those who had this name before and were removed. */
  readonly revokedKeys: readonly MachineKey[];
  /** The token that it enrolled with. */
  readonly tokenId: string;
  readonly enrolledAt: number;
  /** What it claims and has been granted; none while it is away. */
  readonly addresses: readonly IpAddress[];
  /** Of the machine that was last accepted. */
  readonly bootId: string;
  readonly agentVersion: string;
  /** What its agent said last of its checks. */
  readonly checks: ReadonlyMap<string, CheckStanding>;
  /** A machine that was removed is kept as long as one of its certificates is valid. */
  readonly removedAt: number | undefined;
  /** Endpoints behind it, by name. Default: there are none. */
  readonly endpoints?: readonly MachineEndpoint[] | undefined;
}

/** A record that cannot be read. */
export class MachineRecordError extends Error {
  readonly code = 'bad-machine-record';
  readonly retryable = false;

  constructor(message: string, options: { readonly cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'MachineRecordError';
  }
}

/** Whether a text is a name that machines may have: a DNS label, so that it can stand in a key and in a certificate. */
export function isMachineName(text: string): boolean {
  return MACHINE_NAME.test(text);
}

/** Name of the machine that a certificate's common name is for; undefined for a name that cannot be a machine's. */
export function machineNameOf(commonName: string): string | undefined {
  const name = /^machine-(.+)$/.exec(commonName)?.[1];
  return name !== undefined && isMachineName(name) ? name : undefined;
}

const keySchema = z.object({ hash: z.string(), expiresAt: z.number() });

const recordSchema = z.object({
  schema: z.literal(SCHEMA),
  name: z.string().refine(isMachineName, 'is no name of a machine'),
  namespace: z.string().min(1),
  labels: z.record(z.string(), z.string()).default({}),
  addressRanges: z.array(z.string()).default([]),
  publicKeyHash: z.string().default(''),
  keys: z.array(keySchema).default([]),
  revokedKeys: z.array(keySchema).default([]),
  tokenId: z.string().default(''),
  enrolledAt: z.number().default(0),
  addresses: z.array(z.string()).default([]),
  bootId: z.string().default(''),
  agentVersion: z.string().default(''),
  checks: z.record(z.string(), z.object({ healthy: z.boolean(), reason: z.string() })).default({}),
  removedAt: z.number().optional(),
  endpoints: z
    .array(
      z.object({
        name: z.string().refine(isMachineName, 'is no name of an endpoint'),
        addresses: z.array(z.string()),
        labels: z.record(z.string(), z.string()).default({}),
      }),
    )
    .default([]),
});

/** Value under which a machine is kept. The same record is the same text. */
export function encodeMachineRecord(record: MachineRecord): string {
  const { checks, removedAt, endpoints = [], ...rest } = record;
  const sorted = [...checks].sort(([a], [b]) => (a < b ? -1 : 1));
  return JSON.stringify({
    schema: SCHEMA,
    ...rest,
    checks: Object.fromEntries(sorted),
    ...(removedAt === undefined ? {} : { removedAt }),
    ...(endpoints.length === 0 ? {} : { endpoints }),
  });
}

/** Reads it back. Throws MachineRecordError. */
export function decodeMachineRecord(value: string): MachineRecord {
  let object: unknown;
  try {
    object = JSON.parse(value);
  } catch (cause) {
    throw new MachineRecordError('it is not JSON', { cause });
  }
  const result = recordSchema.safeParse(object);
  if (!result.success) {
    const [issue] = result.error.issues;
    const field = (issue?.path ?? []).join('.');
    throw new MachineRecordError(`${field}: ${issue?.message ?? 'malformed'}`);
  }
  const { schema: _schema, addressRanges, addresses, checks, removedAt, ...more } = result.data;
  const { endpoints, ...rest } = more;
  try {
    return {
      ...rest,
      addressRanges: addressRanges.map(parseIpPrefix),
      addresses: addresses.map(parseIpAddress),
      checks: new Map(Object.entries(checks)),
      removedAt,
      ...(endpoints.length === 0 ? {} : { endpoints: endpoints.map(readEndpoint) }),
    };
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new MachineRecordError(`addresses: ${reason}`, { cause });
  }
}

/** What is published of a machine; undefined: nothing. */
export function publishedMachine(record: MachineRecord): Machine | undefined {
  return record.removedAt !== undefined || record.addresses.length === 0
    ? undefined
    : machineOf(record);
}

/** A machine as Services select it and as its checks are told. */
export function machineOf(record: MachineRecord): Machine {
  const { name, namespace, labels, addresses, checks, endpoints } = record;
  const passed = [...checks].filter(([, { healthy }]) => healthy).map(([check]) => check);
  return { name, namespace, labels, addresses, healthy: new Set(passed), endpoints };
}

function readEndpoint(kept: {
  readonly name: string;
  readonly addresses: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
}): MachineEndpoint {
  return { ...kept, addresses: kept.addresses.map(parseIpAddress) };
}
