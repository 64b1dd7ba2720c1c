/** A ServiceExport (`multicluster.x-k8s.io`, v1alpha1 and v1beta1), cut down to what is used. */
import { z } from 'zod';
import { checkObject } from './object-error.ts';
import { metadataField, type ObjectName, recordField } from './object-fields.ts';

/** The wish to offer the Service of the same name to the other clusters. */
export interface ServiceExportObject extends ObjectName {
  readonly kind: 'ServiceExport';
  /** For Events about it. */
  readonly uid: string;
  /** Milliseconds since 1970: of two exports in conflict the older one counts. */
  readonly createdAt: number;
  readonly exportedLabels: Readonly<Record<string, string>>;
  readonly exportedAnnotations: Readonly<Record<string, string>>;
}

const schema = z.object({
  kind: z.literal('ServiceExport'),
  metadata: metadataField.extend({
    creationTimestamp: z.iso.datetime({
      offset: true,
      message: 'expected the time at which it was made, which an API server sets',
    }),
  }),
  spec: z
    .object({ exportedLabels: recordField, exportedAnnotations: recordField })
    .nullish()
    .transform((value) => value ?? { exportedLabels: {}, exportedAnnotations: {} }),
});

/** Parses a ServiceExport. Throws ObjectError naming the field. */
export function parseServiceExportObject(input: unknown): ServiceExportObject {
  const { metadata: meta, spec } = checkObject(schema, input);
  return {
    kind: 'ServiceExport',
    namespace: meta.namespace ?? 'default',
    name: meta.name,
    uid: meta.uid,
    createdAt: Date.parse(meta.creationTimestamp),
    exportedLabels: spec.exportedLabels,
    exportedAnnotations: spec.exportedAnnotations,
  };
}
