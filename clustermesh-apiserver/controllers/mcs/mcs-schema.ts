/** Which version of the Multi-Cluster Services API a cluster serves, and which fields that version has there. */
import { z } from 'zod';
import { MCS_GROUP } from './mcs-names.ts';

/** Versions we speak, the one we prefer first. */
export const MCS_VERSIONS = ['v1beta1', 'v1alpha1'] as const;
/** One of `MCS_VERSIONS`. */
export type McsVersion = (typeof MCS_VERSIONS)[number];

/** What a cluster serves. Fields it does not have are not sent: applying one is refused as a whole. */
export interface ServedApi {
  readonly version: McsVersion;
  readonly apiVersion: string;
  readonly importSpecFields: ReadonlySet<string>;
  readonly importStatusFields: ReadonlySet<string>;
}

/** The CustomResourceDefinitions as far as they are looked at. */
const crdSchema = z.object({
  spec: z.object({
    versions: z.array(
      z.object({
        name: z.string(),
        served: z.boolean().default(false),
        schema: z
          .object({
            openAPIV3Schema: z
              .object({
                properties: z
                  .record(
                    z.string(),
                    z.object({ properties: z.record(z.string(), z.unknown()).default({}) }).loose(),
                  )
                  .default({}),
              })
              .loose()
              .default({ properties: {} }),
          })
          .nullish(),
      }),
    ),
  }),
});

/** Fields that every version of the definitions since 0.2 has. */
const OLDEST_SPEC = ['ports', 'ips', 'type', 'sessionAffinity', 'sessionAffinityConfig'];
const OLDEST_STATUS = ['clusters', 'conditions'];

/**
 * What is served, told by both definitions; undefined when they have no version in common that we speak. Without definitions to
 * look at (no permission) the fields are those of the oldest ones.
 */
export function servedApi(definitions: {
  readonly serviceExports: unknown;
  readonly serviceImports: unknown;
}): ServedApi | undefined {
  const exports = crdSchema.safeParse(definitions.serviceExports);
  const imports = crdSchema.safeParse(definitions.serviceImports);
  if (!exports.success || !imports.success) return undefined;
  const served = (versions: readonly { name: string; served: boolean }[], name: string): boolean =>
    versions.some((version) => version.name === name && version.served);
  const version = MCS_VERSIONS.find(
    (name) => served(exports.data.spec.versions, name) && served(imports.data.spec.versions, name),
  );
  if (version === undefined) return undefined;
  const properties = imports.data.spec.versions.find(({ name }) => name === version)?.schema
    ?.openAPIV3Schema.properties;
  return {
    ...oldestApi(version),
    importSpecFields: new Set(fieldsOf(properties?.spec, OLDEST_SPEC)),
    importStatusFields: new Set(fieldsOf(properties?.status, OLDEST_STATUS)),
  };
}

/** A version with the fields that it had from the beginning. */
export function oldestApi(version: McsVersion): ServedApi {
  return {
    version,
    apiVersion: `${MCS_GROUP}/${version}`,
    importSpecFields: new Set(OLDEST_SPEC),
    importStatusFields: new Set(OLDEST_STATUS),
  };
}

function fieldsOf(
  schema: { readonly properties: Readonly<Record<string, unknown>> } | undefined,
  otherwise: readonly string[],
): readonly string[] {
  const fields = Object.keys(schema?.properties ?? {});
  return fields.length === 0 ? otherwise : fields;
}
