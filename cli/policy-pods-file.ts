/** The file of pods that `clustermesh policy simulate --endpoints` reads instead of asking an agent. */
import { parse } from 'yaml';
import { z } from 'zod';
import type { OfflinePod } from '../agent/policy/offline-view.ts';
import {
  CLUSTER_LABEL,
  decodeLabels,
  type Labels,
  labelsFromRecord,
  NAMESPACE_LABEL,
  NAMESPACE_LABELS_PREFIX,
  SERVICE_ACCOUNT_LABEL,
  sortLabels,
} from '../mesh/wire/identity.ts';
import { parseKey } from '../mesh/wire/parse-key.ts';
import { CliError } from './cli-error.ts';

/** IANA numbers of the protocols that ports with names may have. */
const PROTOCOLS = { TCP: 6, UDP: 17, SCTP: 132 } as const;
const PORT = /^([1-9]\d{0,4})(?:\/(TCP|UDP|SCTP))?$/;
const MAX_ALIASES = 100;

const labelRecord = z.record(z.string(), z.string());
const port = z
  .union([z.string(), z.number().int().transform(String)])
  .refine((text) => Number(PORT.exec(text)?.[1] ?? 0) <= 65_535 && PORT.test(text), {
    message: 'expected NUMBER or NUMBER/PROTOCOL',
  });
const fileSchema = z.strictObject({
  endpoints: z.array(
    z.strictObject({
      /** For whoever reads the file. */
      name: z.string().optional(),
      cluster: z.string().min(1).optional(),
      namespace: z.string().min(1).default('default'),
      labels: labelRecord.default({}),
      serviceAccount: z.string().min(1).default('default'),
      ports: z.record(z.string(), port).default({}),
    }),
  ),
  /** Labels of namespaces, which those that are not here have none of. */
  namespaces: z.record(z.string(), labelRecord).default({}),
});

type Pod = z.infer<typeof fileSchema>['endpoints'][number];

/**
 * Reads pods: YAML or JSON with a list of endpoints, or the lines of JSON that `clustermesh kv dump` prints, of which the
 * identities count. `cluster`: of pods that name none. Throws CliError `usage` naming file and field.
 */
export function readPods(
  file: { readonly name: string; readonly text: string },
  cluster: string,
): readonly OfflinePod[] {
  const dumped = podsOfDump(file);
  if (dumped !== undefined) return dumped;
  let content: unknown;
  try {
    content = parse(file.text, { maxAliasCount: MAX_ALIASES });
  } catch (cause) {
    throw new CliError('usage', `${file.name}: ${cause instanceof Error ? cause.message : cause}`, {
      cause,
    });
  }
  const read = fileSchema.safeParse(content);
  if (!read.success) {
    const [issue] = read.error.issues;
    const where = issue?.path.join('.') ?? '';
    throw new CliError(
      'usage',
      `${file.name}: ${where === '' ? 'the file' : where}: ${issue?.message}; expected endpoints: a list of cluster, namespace, labels, serviceAccount and ports, or what \`clustermesh kv dump\` prints`,
    );
  }
  const { endpoints, namespaces } = read.data;
  return endpoints.map((pod) => ({
    labels: identityLabels(pod, { cluster, ofNamespace: namespaces[pod.namespace] ?? {} }),
    namedPorts: Object.entries(pod.ports).map(([name, text]) => namedPort(name, text)),
  }));
}

/** Undefined: the file is something else. */
function podsOfDump({
  name,
  text,
}: {
  readonly name: string;
  readonly text: string;
}): OfflinePod[] | undefined {
  const lines = text.split('\n').filter((line) => line.trim() !== '');
  const pairs = lines.map(pairOf);
  if (lines.length === 0 || pairs[0] === undefined) return undefined;
  return pairs.flatMap((pair, index) => {
    if (pair === undefined) {
      throw new CliError(
        'usage',
        `${name}:${index + 1}: expected a pair of \`clustermesh kv dump\``,
      );
    }
    if (keyKind(pair.key) !== 'identity') return [];
    try {
      return [{ labels: decodeLabels(pair.value, pair.key), namedPorts: [] }];
    } catch (cause) {
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new CliError('usage', `${name}:${index + 1}: ${why}`, { cause });
    }
  });
}

const pairSchema = z.object({ key: z.string(), value: z.string() });

function pairOf(line: string): z.infer<typeof pairSchema> | undefined {
  try {
    return pairSchema.safeParse(JSON.parse(line)).data;
  } catch {
    return undefined;
  }
}

/** Undefined: a key that nobody of the mesh knows. */
function keyKind(key: string): string | undefined {
  try {
    return parseKey(key).kind;
  } catch {
    return undefined;
  }
}

/** Labels as an apiserver makes them of a pod. */
function identityLabels(
  pod: Pod,
  context: { readonly cluster: string; readonly ofNamespace: Readonly<Record<string, string>> },
): Labels {
  const ofNamespace = Object.entries({
    'kubernetes.io/metadata.name': pod.namespace,
    ...context.ofNamespace,
  }).map(([key, value]) => [`${NAMESPACE_LABELS_PREFIX}${key}`, value]);
  return sortLabels(
    labelsFromRecord({
      ...pod.labels,
      ...Object.fromEntries(ofNamespace),
      [NAMESPACE_LABEL]: pod.namespace,
      [CLUSTER_LABEL]: pod.cluster ?? context.cluster,
      [SERVICE_ACCOUNT_LABEL]: pod.serviceAccount,
    }),
  );
}

function namedPort(name: string, text: string): OfflinePod['namedPorts'][number] {
  const [, number, protocol = 'TCP'] = PORT.exec(text) ?? [];
  return {
    name,
    protocol: protocol === 'UDP' || protocol === 'SCTP' ? PROTOCOLS[protocol] : PROTOCOLS.TCP,
    port: Number(number),
  };
}
