/** What nodes say of themselves, parsed from their messages and from where it is kept over restarts. */
import { z } from 'zod';
import {
  type IpAddress,
  type IpPrefix,
  parseIpAddress,
  parseIpPrefix,
  prefixContains,
  splitPrefix,
} from '../../mesh/wire/ip.ts';
import { REGISTRY_PREFIX } from '../../mesh/wire/keys.ts';
import type { NodeConflict, NodeFacts } from '../convert/node.ts';

/** Where facts are kept, by node name. */
export const NODE_FACTS_PREFIX = `${REGISTRY_PREFIX}nodes/`;

const SCHEMA = 1;
const MAX_ENTRIES = 32;
const MAX_BOOT_ID_LENGTH = 128;
/** Every label of a DNS name, so that it can stand in a key. */
const NODE_NAME = /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/;
const MAX_NODE_NAME_LENGTH = 253;

/** Networks whose addresses no other node can reach one under. */
const UNREACHABLE: readonly (readonly [IpPrefix, string])[] = [
  [parseIpPrefix('0.0.0.0/8'), 'is no address of a node'],
  [parseIpPrefix('127.0.0.0/8'), 'is a loopback address'],
  [parseIpPrefix('169.254.0.0/16'), 'is a link-local address'],
  [parseIpPrefix('224.0.0.0/3'), 'is a multicast or reserved address'],
  [parseIpPrefix('::/127'), 'is no address of a node'],
  [parseIpPrefix('fe80::/10'), 'is a link-local address'],
  [parseIpPrefix('ff00::/8'), 'is a multicast address'],
];

const messageSchema = z.object({
  addresses: z.array(z.string()).default([]),
  pod_cidrs: z.array(z.string()).default([]),
  boot_id: z.string().default(''),
});

const keptSchema = messageSchema.extend({ schema: z.literal(SCHEMA) });

/** Facts that cannot be taken. */
export class FactsError extends Error {
  readonly code = 'bad-facts';
  readonly field: string;
  readonly retryable = false;

  constructor({ field, reason }: NodeConflict) {
    super(reason);
    this.name = 'FactsError';
    this.field = field;
  }
}

/** Name of the node that a certificate's common name is for; undefined for a name that cannot be a node's. */
export function nodeNameOf(commonName: string): string | undefined {
  const name = /^node-(.+)$/.exec(commonName)?.[1];
  return name !== undefined && name.length <= MAX_NODE_NAME_LENGTH && NODE_NAME.test(name)
    ? name
    : undefined;
}

/** Parses the facts of a message. Throws FactsError naming the field. */
export function parseNodeFacts(message: unknown): NodeFacts {
  const result = messageSchema.safeParse(message);
  if (!result.success) {
    const [issue] = result.error.issues;
    throw new FactsError({
      field: (issue?.path ?? []).join('.'),
      reason: issue?.message ?? 'malformed',
    });
  }
  const { addresses, pod_cidrs: podCidrs, boot_id: bootId } = result.data;
  if (addresses.length === 0) {
    throw new FactsError({ field: 'addresses', reason: 'none is given, expected at least one' });
  }
  if (addresses.length > MAX_ENTRIES) throw tooMany('addresses', addresses.length);
  if (podCidrs.length > MAX_ENTRIES) throw tooMany('pod_cidrs', podCidrs.length);
  if (bootId.length > MAX_BOOT_ID_LENGTH) {
    throw new FactsError({
      field: 'boot_id',
      reason: `is longer than ${MAX_BOOT_ID_LENGTH} characters`,
    });
  }
  return {
    addresses: [...new Set(addresses.map(parseUnderlayAddress))],
    podCidrs: [...new Set(podCidrs.map(parsePodCidr))],
    bootId,
  };
}

/** Value under which facts are kept. */
export function encodeKeptFacts(facts: NodeFacts): string {
  return JSON.stringify({
    schema: SCHEMA,
    addresses: facts.addresses,
    pod_cidrs: facts.podCidrs,
    boot_id: facts.bootId,
  });
}

/** Reads it back. Throws FactsError. */
export function decodeKeptFacts(value: string): NodeFacts {
  let object: unknown;
  try {
    object = JSON.parse(value);
  } catch {
    throw new FactsError({ field: '', reason: 'it is not JSON' });
  }
  const result = keptSchema.safeParse(object);
  if (result.success) return parseNodeFacts(result.data);
  const [issue] = result.error.issues;
  throw new FactsError({
    field: (issue?.path ?? []).join('.'),
    reason: issue?.message ?? 'malformed',
  });
}

/** Parses an address that others can reach a node or machine under. Throws FactsError. */
export function parseUnderlayAddress(text: string): IpAddress {
  const address = atField('addresses', () => parseIpAddress(text));
  const found = UNREACHABLE.find(([prefix]) => prefixContains(prefix, address));
  if (found !== undefined) {
    throw new FactsError({ field: 'addresses', reason: `${address} ${found[1]}` });
  }
  return address;
}

function parsePodCidr(text: string): IpPrefix {
  const prefix = atField('pod_cidrs', () => parseIpPrefix(text));
  const { address, length } = splitPrefix(prefix);
  if (length === 0) {
    throw new FactsError({ field: 'pod_cidrs', reason: `${prefix} is every address there is` });
  }
  const found = UNREACHABLE.find(
    ([range]) =>
      prefixContains(range, address) || prefixContains(prefix, splitPrefix(range).address),
  );
  if (found !== undefined) {
    throw new FactsError({
      field: 'pod_cidrs',
      reason: `${prefix} overlaps ${found[0]}, which pods cannot use`,
    });
  }
  return prefix;
}

function tooMany(field: string, count: number): FactsError {
  return new FactsError({ field, reason: `${count} are given, expected at most ${MAX_ENTRIES}` });
}

function atField<T>(field: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    throw new FactsError({ field, reason: error instanceof Error ? error.message : String(error) });
  }
}
