/** Puts the CustomResourceDefinitions of the Multi-Cluster Services API into the cluster. */
import { readFile } from 'node:fs/promises';
import { parseAllDocuments } from 'yaml';
import type { Logger } from '../../../mesh/runtime/log.ts';
import { projectPath } from '../../../mesh/runtime/project-path.ts';
import { RESOURCES } from '../../kubernetes/resource.ts';
import type { DesiredObject } from '../applied-fields.ts';
import type { Applier } from '../apply.ts';
import { type JsonFields, recordOf, textOf, textsOf } from '../kubernetes-object.ts';
import { isNewerDefinition } from './crd-release.ts';

const MANIFEST = 'clustermesh-apiserver/kubernetes/manifests/mcs-crds.yaml';

/** Reads our definitions. Throws when the file is not ours. */
export async function readDefinitions(): Promise<readonly DesiredObject[]> {
  const text = await readFile(projectPath(MANIFEST), 'utf8');
  return parseAllDocuments(text).map((document) => {
    const fields = recordOf(document.toJS());
    const metadata = recordOf(fields?.metadata);
    if (fields === undefined || metadata === undefined) {
      throw new Error(`cannot use ${MANIFEST}: a document is no CustomResourceDefinition`);
    }
    return {
      ...fields,
      metadata: { name: textOf(metadata, 'name'), labels: textsOf(metadata.labels) },
    };
  });
}

/**
 * Creates the definitions, and replaces older ones; a newer one stays. Rejects as `Applier.apply`; what was done before stays
 * done.
 */
export async function installDefinitions(options: {
  readonly applier: Applier;
  readonly logger: Logger;
  readonly signal: AbortSignal;
}): Promise<void> {
  const { applier, logger, signal } = options;
  const resource = RESOURCES.customResourceDefinitions;
  for (const desired of await readDefinitions()) {
    let isWanted = true;
    const result = await applier.apply(desired, {
      resource,
      observed: undefined,
      isOurs: ({ raw }: { raw: JsonFields }) => {
        isWanted = isNewerDefinition(desired, raw);
        return isWanted;
      },
      force: true,
      signal,
    });
    const definition = desired.metadata.name;
    if (result.kind === 'written') logger.info({ definition }, 'definition installed');
    else if (isWanted && result.kind !== 'unchanged') {
      logger.warn({ definition, problem: result.message }, 'definition not installed');
    }
  }
}
