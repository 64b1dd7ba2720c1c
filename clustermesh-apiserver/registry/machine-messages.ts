/** What machines say of themselves and what they are told, parsed and built. Pure. */
import { z } from 'zod';
import { type IpAddress, type IpPrefix, prefixContains } from '../../mesh/wire/ip.ts';
import type { HealthCheck } from '../convert/health-check.ts';
import type { MachineRefusal } from './machine-enrolment.ts';
import type { CheckStanding } from './machine-record.ts';
import { FactsError, parseUnderlayAddress } from './node-facts.ts';

const MAX_ADDRESSES = 32;
const MAX_BOOT_ID_LENGTH = 128;
/** More than any machine has checks, and few enough that what is kept of one stays far below what etcd takes. */
const MAX_RESULTS = 512;
const MAX_REASON_LENGTH = 200;

const factsSchema = z.object({
  addresses: z.array(z.string()).default([]),
  boot_id: z.string().default(''),
  container_cidrs: z.array(z.string()).default([]),
});

const healthSchema = z.object({
  results: z
    .array(
      z.object({
        check: z.string().default(''),
        healthy: z.boolean().default(false),
        reason: z.string().default(''),
      }),
    )
    .default([]),
});

/** What a machine's agent says of its machine. */
export interface MachineClaim {
  /** Underlay addresses, each once; none: the machine leaves, and nothing is to be published for it. */
  readonly addresses: readonly IpAddress[];
  readonly bootId: string;
}

/** Parses MachineFacts. No addresses: the machine leaves. Throws FactsError naming the field. */
export function parseMachineFacts(message: unknown): MachineClaim {
  const result = factsSchema.safeParse(message);
  if (!result.success) {
    const [issue] = result.error.issues;
    throw new FactsError({
      field: (issue?.path ?? []).join('.'),
      reason: issue?.message ?? 'malformed',
    });
  }
  const { addresses, boot_id: bootId, container_cidrs: containers } = result.data;
  if (containers.length > 0) {
    throw new FactsError({
      field: 'container_cidrs',
      reason:
        'what is behind a machine is for administrators to say (clustermesh vm endpoint set), expected none',
    });
  }
  if (bootId.length > MAX_BOOT_ID_LENGTH) {
    throw new FactsError({
      field: 'boot_id',
      reason: `is longer than ${MAX_BOOT_ID_LENGTH} characters`,
    });
  }
  return { addresses: addresses.length === 0 ? [] : parseMachineAddresses(addresses), bootId };
}

/** Parses the addresses that a machine claims. Throws FactsError. */
export function parseMachineAddresses(texts: readonly string[]): readonly IpAddress[] {
  if (texts.length === 0) {
    throw new FactsError({ field: 'addresses', reason: 'none is given, expected at least one' });
  }
  if (texts.length > MAX_ADDRESSES) {
    throw new FactsError({
      field: 'addresses',
      reason: `${texts.length} are given, expected at most ${MAX_ADDRESSES}`,
    });
  }
  return [...new Set(texts.map(parseUnderlayAddress))];
}

/** Throws FactsError for an address outside of what a machine was granted. No range at all rules nothing out. */
export function checkRanges(addresses: readonly IpAddress[], ranges: readonly IpPrefix[]): void {
  if (ranges.length === 0) return;
  for (const address of addresses) {
    if (ranges.some((range) => prefixContains(range, address))) continue;
    throw new FactsError({
      field: 'addresses',
      reason: `${address} is outside of what the machine's token allows: ${ranges.join(', ')}`,
    });
  }
}

/** What is wrong with a message, as it is told; rethrows what is no FactsError. */
export function refusalOf(error: unknown): MachineRefusal {
  if (!(error instanceof FactsError)) throw error;
  return { field: error.field, reason: error.message };
}

/** What a HealthReport says, by check; undefined when it cannot be read. */
export function parseHealthReport(
  message: unknown,
): ReadonlyMap<string, CheckStanding> | undefined {
  const result = healthSchema.safeParse(message);
  if (!result.success || result.data.results.length > MAX_RESULTS) return undefined;
  return new Map(
    result.data.results.map(({ check, healthy, reason }) => [
      check,
      { healthy, reason: healthy ? '' : reason.slice(0, MAX_REASON_LENGTH) },
    ]),
  );
}

/** What a machine is told. */
export interface MachineSettings {
  readonly labels: Readonly<Record<string, string>>;
  readonly namespace: string;
  /** Clusters that are mirrored in the own etcd. */
  readonly peers: readonly string[];
  readonly checks: readonly HealthCheck[];
  /** PEM. */
  readonly trustBundle: string;
  /** The authority that signs at present, SHA-256 in lower-case hex; empty: none does. */
  readonly issuer: string;
}

/** MachineConfig. */
export function encodeMachineConfig(settings: MachineSettings, revision: number): object {
  const { labels, namespace, peers, checks, trustBundle, issuer } = settings;
  return {
    config: {
      revision,
      labels,
      namespace,
      peers,
      checks: checks.map(({ check, kind, port, path, periodMs, timeoutMs, failures }) => ({
        check,
        kind,
        port,
        path,
        period_ms: periodMs,
        timeout_ms: timeoutMs,
        failures,
      })),
      trust_bundle: Buffer.from(trustBundle),
      issuer,
    },
  };
}
