import type { KubernetesApi } from '../kubernetes/api.ts';
import { KubernetesError } from '../kubernetes/kubernetes-error.ts';
import { apiVersionOf, RESOURCES, resourcePath } from '../kubernetes/resource.ts';
import { type JsonFields, recordOf, textOf } from './kubernetes-object.ts';
import type { LeaseRecord } from './lease-record.ts';

/** A Lease that was read or written. */
export interface StoredLease {
  readonly record: LeaseRecord;
  /** What the store needs to know that it has not changed. */
  readonly version: unknown;
}

/** Where a Lease is kept: a register that is written only as it was read. */
export interface LeaseStore {
  /** Where it is, for messages. */
  readonly place: string;
  read(signal: AbortSignal): Promise<StoredLease | undefined>;
  /** Writes it where it is still as it was read; `before` undefined: where there is none. Undefined: another was faster. */
  write(
    record: LeaseRecord,
    before: StoredLease | undefined,
    signal: AbortSignal,
  ): Promise<StoredLease | undefined>;
}

const LEASES = RESOURCES.leases;

/** A Lease of the API server. */
export function createLeaseStore(
  api: KubernetesApi,
  { namespace, name }: { readonly namespace: string; readonly name: string },
): LeaseStore {
  const path = resourcePath(LEASES, { namespace, name });
  return {
    place: `${namespace}/${name}`,
    async read(signal) {
      try {
        const { body } = await api.request({ method: 'GET', path, signal });
        return storedLease(body);
      } catch (error) {
        if (error instanceof KubernetesError && error.code === 'not-found') return undefined;
        throw error;
      }
    },
    async write(record, before, signal) {
      const known = recordOf(before?.version);
      const body = {
        apiVersion: apiVersionOf(LEASES),
        kind: LEASES.kind,
        // Somebody's labels stay; the resource version in it is the condition.
        metadata: known?.metadata ?? { name, namespace },
        spec: { ...recordOf(known?.spec), ...specOf(record) },
      };
      try {
        const answer = await api.request(
          before === undefined
            ? { method: 'POST', path: resourcePath(LEASES, { namespace }), body, signal }
            : { method: 'PUT', path, body, signal },
        );
        return storedLease(answer.body);
      } catch (error) {
        const isLate =
          error instanceof KubernetesError &&
          (error.code === 'conflict' || (error.code === 'not-found' && before !== undefined));
        if (isLate) return undefined;
        throw error;
      }
    },
  };
}

function specOf(record: LeaseRecord): JsonFields {
  return {
    holderIdentity: record.holder,
    leaseDurationSeconds: Math.max(1, Math.ceil(record.durationMs / 1000)),
    acquireTime: record.acquireTime,
    renewTime: record.renewTime,
    leaseTransitions: record.transitions,
  };
}

function storedLease(body: unknown): StoredLease {
  const spec = recordOf(recordOf(body)?.spec);
  const seconds = spec?.leaseDurationSeconds;
  const transitions = spec?.leaseTransitions;
  return {
    record: {
      holder: textOf(spec, 'holderIdentity'),
      durationMs: typeof seconds === 'number' ? seconds * 1000 : 0,
      acquireTime: textOf(spec, 'acquireTime'),
      renewTime: textOf(spec, 'renewTime'),
      transitions: typeof transitions === 'number' ? transitions : 0,
    },
    version: body,
  };
}
