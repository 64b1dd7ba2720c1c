/** Puts CustomResourceDefinitions of ours into the cluster, by whoever leads. */
import { readFile } from 'node:fs/promises';
import { parseAllDocuments } from 'yaml';
import { createBackoff } from '../../mesh/runtime/backoff.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { RESOURCES } from '../kubernetes/resource.ts';
import type { DesiredObject } from './applied-fields.ts';
import type { Applier } from './apply.ts';
import { type JsonFields, recordOf, textOf, textsOf } from './kubernetes-object.ts';

const RETRY_MS = { minMs: 1_000, maxMs: 60_000 };
const REVISION_LABEL = 'isthmus.io/crd-schema-revision';

/** Reads the definitions of a manifest. Throws when the file is not ours. */
export async function readDefinitions(manifest: string): Promise<readonly DesiredObject[]> {
  const text = await readFile(projectPath(manifest), 'utf8');
  return parseAllDocuments(text).map((document) => {
    const fields = recordOf(document.toJS());
    const metadata = recordOf(fields?.metadata);
    if (fields === undefined || metadata === undefined) {
      throw new Error(`cannot use ${manifest}: a document is no CustomResourceDefinition`);
    }
    return {
      ...fields,
      metadata: { name: textOf(metadata, 'name'), labels: textsOf(metadata.labels) },
    };
  });
}

/** Whether a definition of our own kinds is to replace what is there. One without our label is older than all that have it. */
export function isNewerRevision(ours: JsonFields, theirs: JsonFields): boolean {
  return revisionOf(ours) > revisionOf(theirs);
}

function revisionOf(definition: JsonFields): number {
  return Number(textsOf(recordOf(definition.metadata)?.labels)[REVISION_LABEL] ?? 0);
}

/** Puts definitions there. */
export interface DefinitionInstaller {
  /** Resolves when they are there, or `signal` has aborted; errors are waited out. */
  run(signal: AbortSignal): Promise<void>;
  /** Why they cannot be installed; undefined: they can, or need not be. */
  readonly problem: string | undefined;
}

/** Makes an installer of the definitions of a manifest. Older ones are replaced, newer ones stay. */
export function createDefinitionInstaller(options: {
  /** Path in the project. */
  readonly manifest: string;
  readonly isNewer: (ours: JsonFields, theirs: JsonFields) => boolean;
  readonly applier: Applier;
  readonly onInstalled?: () => void;
  readonly clock: Clock;
  readonly logger: Logger;
}): DefinitionInstaller {
  const { clock, logger } = options;
  let problem: string | undefined;
  return {
    async run(signal) {
      const backoff = createBackoff(RETRY_MS);
      while (!signal.aborted) {
        try {
          await install({ ...options, signal });
          problem = undefined;
          options.onInstalled?.();
          return;
        } catch (error) {
          if (signal.aborted) return;
          const reason = error instanceof Error ? error.message : String(error);
          problem = `definitions cannot be installed: ${reason}`;
          logger.warn({ err: error }, 'definitions cannot be installed, will be retried');
        }
        await clock.sleep(backoff.next(), signal).catch(() => undefined);
      }
    },
    get problem() {
      return problem;
    },
  };
}

/** Rejects as `Applier.apply`; what was done before stays done. */
async function install(options: {
  readonly manifest: string;
  readonly isNewer: (ours: JsonFields, theirs: JsonFields) => boolean;
  readonly applier: Applier;
  readonly logger: Logger;
  readonly signal: AbortSignal;
}): Promise<void> {
  const { applier, isNewer, logger, signal } = options;
  const resource = RESOURCES.customResourceDefinitions;
  for (const desired of await readDefinitions(options.manifest)) {
    let isWanted = true;
    const result = await applier.apply(desired, {
      resource,
      observed: undefined,
      isOurs: ({ raw }: { raw: JsonFields }) => {
        isWanted = isNewer(desired, raw);
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
