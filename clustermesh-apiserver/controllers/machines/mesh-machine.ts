/** MeshMachine objects as they came, and what is said of ours. Pure. */
import { z } from 'zod';
import type { KubernetesObject } from '../kubernetes-object.ts';
import type { StoredCondition } from '../mcs/condition.ts';

/** Keeps an object until its machine has been removed. */
export const FINALIZER = 'isthmus.io/machine';
/** What we have made bears it; others' objects are never deleted. */
export const MADE_HERE = { 'app.kubernetes.io/managed-by': 'isthmus-clustermesh-apiserver' };

/** Why it is as it is, as the status has it. */
export type MachineState = 'NotEnrolled' | 'Enrolled' | 'Connected' | 'Away' | 'Removed';

/** What of an object is looked at. */
export interface MeshMachine {
  readonly object: KubernetesObject;
  readonly generation: number;
  /** What the machine's labels are to be; undefined: the object does not say. */
  readonly labels: Readonly<Record<string, string>> | undefined;
  readonly finalizers: readonly string[];
  /** Whether this controller made it, for a machine that had enrolled. */
  readonly isOurs: boolean;
  /** Of the status before. */
  readonly state: string;
  readonly since: string;
  readonly conditions: readonly StoredCondition[];
}

const text = z.string().catch('');
const condition = z.object({
  type: z.string(),
  status: z.enum(['True', 'False', 'Unknown']),
  reason: text,
  message: text,
  lastTransitionTime: text,
  observedGeneration: z.number().optional(),
});
const machineSchema = z.object({
  metadata: z.object({
    generation: z.number().catch(0),
    finalizers: z.array(z.string()).catch([]),
  }),
  spec: z
    .object({ labels: z.record(z.string(), z.string()).nullish() })
    .nullish()
    .catch(undefined),
  status: z
    .object({ state: text, since: text, conditions: z.array(condition).catch([]) })
    .nullish()
    .catch(undefined),
});

/** Reads an object. */
export function readMeshMachine(object: KubernetesObject): MeshMachine {
  const { metadata, spec, status } = machineSchema.parse(object.raw);
  return {
    object,
    generation: metadata.generation,
    labels: spec?.labels ?? undefined,
    finalizers: metadata.finalizers,
    isOurs: Object.entries(MADE_HERE).every(([key, value]) => object.labels[key] === value),
    state: status?.state ?? '',
    since: status?.since ?? '',
    conditions: (status?.conditions ?? []).map((one) => ({
      ...one,
      observedGeneration: one.observedGeneration,
    })),
  };
}
