/** The Kubernetes objects of the Multi-Cluster Services API, cut down to what is looked at before they are written. */
import { z } from 'zod';
import type { ServiceExportObject, ServiceObject } from '../../sources/objects.ts';
import { parseServiceExportObject } from '../../sources/service-export-object.ts';
import { parseServiceObject } from '../../sources/service-object.ts';
import { type KubernetesObject, parseKubernetesObject } from '../kubernetes-object.ts';
import type { StoredCondition } from './condition.ts';

/** A ServiceExport. */
export interface ExportObject {
  readonly object: KubernetesObject;
  readonly exported: ServiceExportObject;
  readonly generation: number;
  readonly conditions: readonly StoredCondition[];
}

/** A ServiceImport. */
export interface ImportObject {
  readonly object: KubernetesObject;
  readonly generation: number;
  readonly type: string;
  /** Exporting clusters, from the status. */
  readonly clusters: readonly string[];
  readonly conditions: readonly StoredCondition[];
}

/** A Service: one that may be exported, or a derived one. */
export interface McsService {
  readonly object: KubernetesObject;
  readonly service: ServiceObject;
}

/** An EndpointSlice without its endpoints. */
export type SliceObject = Omit<KubernetesObject, 'raw'>;

/** An EndpointSlice with all of it, to be mirrored. */
export interface WholeSlice {
  readonly object: KubernetesObject;
  readonly addressType: string;
  /** As they are. */
  readonly endpoints: readonly unknown[];
  readonly ports: readonly {
    readonly name: string;
    readonly protocol: string;
    readonly port: number | undefined;
    readonly appProtocol: string | undefined;
  }[];
}

const listOf = <T extends z.ZodType>(item: T) =>
  z
    .array(item)
    .nullish()
    .transform((value) => value ?? []);
const text = z
  .string()
  .nullish()
  .transform((value) => value ?? undefined);
const metadata = z.object({ generation: z.number().default(0) });
const conditions = listOf(
  z.object({
    type: z.string(),
    status: z.enum(['True', 'False', 'Unknown']),
    reason: z.string().default(''),
    message: z.string().default(''),
    observedGeneration: z.number().optional(),
    lastTransitionTime: z.string().default(''),
  }),
).transform((list) =>
  list.map(
    (entry): StoredCondition => ({
      ...entry,
      observedGeneration: entry.observedGeneration,
    }),
  ),
);

const exportSchema = z.object({ metadata, status: z.object({ conditions }).nullish() });

const importSchema = z.object({
  metadata,
  spec: z.object({ type: z.string().default('') }).nullish(),
  status: z.object({ clusters: listOf(z.object({ cluster: z.string() })), conditions }).nullish(),
});

const wholeSliceSchema = z.object({
  addressType: z.string(),
  endpoints: listOf(z.unknown()),
  ports: listOf(
    z
      .object({
        name: text,
        protocol: text,
        port: z.number().nullish(),
        appProtocol: text,
      })
      .transform(({ name, protocol, port, appProtocol }) => ({
        name: name ?? '',
        protocol: protocol ?? 'TCP',
        port: port ?? undefined,
        appProtocol,
      })),
  ),
});

/** Reads a ServiceExport. Throws ObjectError or an error of the schema, as the others here do, when it cannot be used. */
export function readExport(object: KubernetesObject): ExportObject {
  const { metadata: meta, status } = exportSchema.parse(object.raw);
  return {
    object,
    // Items of a list do not say what they are.
    exported: parseServiceExportObject({ ...object.raw, kind: 'ServiceExport' }),
    generation: meta.generation,
    conditions: status?.conditions ?? [],
  };
}

/** Reads a ServiceImport. */
export function readImport(object: KubernetesObject): ImportObject {
  const { metadata: meta, spec, status } = importSchema.parse(object.raw);
  return {
    object,
    generation: meta.generation,
    type: spec?.type ?? '',
    clusters: (status?.clusters ?? []).map(({ cluster }) => cluster),
    conditions: status?.conditions ?? [],
  };
}

/** Reads a Service. */
export function readService(object: KubernetesObject): McsService {
  return { object, service: parseServiceObject({ ...object.raw, kind: 'Service' }) };
}

/** Parses an EndpointSlice and leaves out its endpoints, of which there may be very many. */
export function parseSlice(input: unknown): SliceObject {
  const { raw: _, ...rest } = parseKubernetesObject(input);
  return rest;
}

/** Parses an EndpointSlice with its endpoints. */
export function parseWholeSlice(input: unknown): WholeSlice {
  const object = parseKubernetesObject(input);
  return { object, ...wholeSliceSchema.parse(object.raw) };
}
