/** What `clustermesh get` can list: what a row is, and its columns. */
import { z } from 'zod';
import type { Paint } from './terminal-paint.ts';

/** How what a cell says stands. */
export type Mood = Exclude<keyof Paint, 'strong'>;

/** A cell: text, and how what it says stands. */
interface Cell {
  readonly text: string;
  readonly mood: Mood | undefined;
}

/** A column of a table. */
interface GetColumn {
  readonly head: string;
  /** Shown with `-o wide` alone. */
  readonly isWide: boolean;
}

/** A row of an agent. */
export interface GetRow {
  /** As the agent said it, for JSON and YAML. */
  readonly fields: Readonly<Record<string, unknown>>;
  /** In the order of the columns. */
  readonly cells: readonly Cell[];
}

/** A kind of rows. */
export interface GetKind {
  readonly name: string;
  readonly description: string;
  /** Reads a row of an agent; fields that are not known here stay. Throws ZodError. */
  readonly read: (row: unknown) => GetRow;
  readonly columns: readonly GetColumn[];
  /** Fields that rows are sorted by, and that `--cluster` and `--namespace` mean. */
  readonly sortBy: readonly string[];
  readonly clusterField: 'cluster' | 'name';
  readonly hasNamespace: boolean;
  readonly hasLabels: boolean;
}

const labels = z.record(z.string(), z.string());
const texts = z.array(z.string());

const node = z.looseObject({
  cluster: z.string(),
  name: z.string(),
  own: z.boolean(),
  addresses: texts,
  labels,
});
const identity = z.looseObject({
  identity: z.number(),
  cluster: z.string(),
  namespace: z.string(),
  labels,
});
const endpoint = z.looseObject({
  address: z.string(),
  cluster: z.string(),
  namespace: z.string(),
  pod: z.string(),
  node: z.string(),
  identity: z.number(),
  labels,
});
const service = z.looseObject({
  cluster: z.string(),
  namespace: z.string(),
  name: z.string(),
  addresses: texts,
  ports: texts,
  global: z.boolean(),
  shared: z.boolean(),
  affinity: z.string().optional(),
  backends: z.number(),
  used: z.number().optional(),
  labels,
});
/** A backend as agents say it, also in what they say of one Service. */
export const backendSchema = z.looseObject({
  cluster: z.string(),
  address: z.string(),
  port: z.number().optional(),
  protocol: z.string().optional(),
  portName: z.string(),
  state: z.string(),
  reason: z.string(),
  node: z.string(),
  zone: z.string(),
});
const backend = backendSchema.extend({ namespace: z.string(), service: z.string(), labels });
const peer = z.looseObject({
  name: z.string(),
  id: z.number().optional(),
  state: z.string(),
  reason: z.string(),
  since: z.string(),
  backends: z.string(),
  backendsReason: z.string(),
  nodes: z.number(),
  identities: z.number(),
  endpoints: z.number(),
  services: z.number(),
  endpointUrls: texts,
  failures: z.number(),
  lastError: z.string(),
  certificateExpiresAt: z.string().optional(),
});

const BACKEND_MOODS: Readonly<Record<string, Mood>> = {
  used: 'good',
  standby: 'warn',
  draining: 'warn',
  unused: 'bad',
};
const PEER_MOODS: Readonly<Record<string, Mood>> = {
  ready: 'good',
  connecting: 'warn',
  syncing: 'warn',
  stale: 'bad',
  withdrawn: 'bad',
  failed: 'bad',
};

/** In the order in which help names them. */
export const GET_KINDS: readonly GetKind[] = [
  kind('nodes', node, {
    description: 'nodes of all clusters',
    columns: (column) => [
      column('CLUSTER', (row) => row.cluster),
      column('NODE', (row) => (row.own ? `${row.name} (this one)` : row.name)),
      column('ADDRESSES', (row) => list(row.addresses)),
      column('LABELS', (row) => labelsText(row.labels), 'wide'),
    ],
    sortBy: ['cluster', 'name'],
    hasLabels: true,
  }),
  kind('identities', identity, {
    description: 'identities that pods and machines have, with the labels they stand for',
    columns: (column) => [
      column('IDENTITY', (row) => String(row.identity)),
      column('CLUSTER', (row) => row.cluster),
      column('NAMESPACE', (row) => row.namespace || '-'),
      column('LABELS', (row) => labelsText(row.labels)),
    ],
    sortBy: ['cluster', 'identity'],
    hasNamespace: true,
    hasLabels: true,
  }),
  kind('endpoints', endpoint, {
    description: 'addresses of pods and machines, where they are, and their identities',
    columns: (column) => [
      column('ADDRESS', (row) => row.address),
      column('CLUSTER', (row) => row.cluster),
      column('NAMESPACE', (row) => row.namespace || '-'),
      column('POD', (row) => row.pod || '-'),
      column('NODE', (row) => row.node || '-'),
      column('IDENTITY', (row) => String(row.identity)),
      column('LABELS', (row) => labelsText(row.labels), 'wide'),
    ],
    sortBy: ['cluster', 'namespace', 'address'],
    hasNamespace: true,
    hasLabels: true,
  }),
  kind('services', service, {
    description: 'Services, a line for each cluster that has one of that name',
    columns: (column) => [
      column('CLUSTER', (row) => row.cluster),
      column('NAMESPACE', (row) => row.namespace),
      column('SERVICE', (row) => row.name),
      column('ADDRESSES', (row) => list(row.addresses)),
      column('PORTS', (row) => list(row.ports)),
      column('GLOBAL', (row) => (row.global ? (row.shared ? 'shared' : 'not shared') : 'no')),
      column('BACKENDS', (row) => String(row.backends)),
      column('USED', (row) => (row.used === undefined ? '-' : String(row.used))),
      column('AFFINITY', (row) => row.affinity ?? '-', 'wide'),
      column('LABELS', (row) => labelsText(row.labels), 'wide'),
    ],
    sortBy: ['namespace', 'name', 'cluster'],
    hasNamespace: true,
    hasLabels: true,
  }),
  kind('backends', backend, {
    description: 'backends of Services, and whether this node uses them',
    columns: (column) => [
      column('NAMESPACE', (row) => row.namespace),
      column('SERVICE', (row) => row.service),
      column('CLUSTER', (row) => row.cluster),
      column('ADDRESS', (row) => row.address),
      column('PORT', portText),
      column('STATE', (row) => row.state, { mood: (row) => BACKEND_MOODS[row.state] }),
      column('WHY', (row) => row.reason || '-', 'wide'),
      column('NODE', (row) => row.node || '-', 'wide'),
      column('ZONE', (row) => row.zone || '-', 'wide'),
    ],
    sortBy: ['namespace', 'service', 'cluster', 'address', 'portName'],
    hasNamespace: true,
    hasLabels: true,
  }),
  kind('peers', peer, {
    description: 'the other clusters, and what was read of them',
    columns: (column) => [
      column('PEER', (row) => row.name),
      column('ID', (row) => (row.id === undefined ? '?' : String(row.id))),
      column('STATE', (row) => row.state, { mood: (row) => PEER_MOODS[row.state] }),
      column('SINCE', (row) => row.since.slice(0, 19)),
      column('BACKENDS', (row) => row.backends, {
        mood: (row) => (row.backends === 'used' ? 'good' : 'bad'),
      }),
      column('NODES', (row) => String(row.nodes)),
      column('IDENTITIES', (row) => String(row.identities)),
      column('ENDPOINTS', (row) => String(row.endpoints)),
      column('SERVICES', (row) => String(row.services)),
      column('WHY', (row) => row.reason || row.backendsReason || '-', 'wide'),
      column('READ FROM', (row) => list(row.endpointUrls), 'wide'),
      column('CERTIFICATE ENDS', (row) => row.certificateExpiresAt?.slice(0, 10) ?? '-', 'wide'),
    ],
    sortBy: ['name'],
    clusterField: 'name',
  }),
];

/** A backend's port, `8080/TCP (http)`. */
export function portText({ port, protocol, portName }: z.infer<typeof backendSchema>): string {
  if (port === undefined) return '-';
  return portName === '' ? `${port}/${protocol}` : `${port}/${protocol} (${portName})`;
}

/** How a backend's state is to be seen. */
export function backendMood(state: string): Mood | undefined {
  return BACKEND_MOODS[state];
}

interface TypedColumn<Row> extends GetColumn {
  readonly text: (row: Row) => string;
  readonly mood: (row: Row) => Mood | undefined;
}

type MakeColumn<Row> = (
  head: string,
  text: (row: Row) => string,
  how?: 'wide' | { readonly mood: (row: Row) => Mood | undefined },
) => TypedColumn<Row>;

function kind<Row extends Record<string, unknown>>(
  name: string,
  schema: z.ZodType<Row>,
  rest: Pick<GetKind, 'description' | 'sortBy'> &
    Partial<Pick<GetKind, 'clusterField' | 'hasNamespace' | 'hasLabels'>> & {
      readonly columns: (make: MakeColumn<Row>) => readonly TypedColumn<Row>[];
    },
): GetKind {
  const columns = rest.columns((head, text, how) => ({
    head,
    isWide: how === 'wide',
    text,
    mood: how === undefined || how === 'wide' ? () => undefined : how.mood,
  }));
  return {
    name,
    read(value) {
      const row = schema.parse(value);
      return {
        fields: row,
        cells: columns.map(({ text, mood }) => ({ text: text(row), mood: mood(row) })),
      };
    },
    clusterField: 'cluster',
    hasNamespace: false,
    hasLabels: false,
    ...rest,
    columns,
  };
}

function list(items: readonly string[]): string {
  return items.length === 0 ? '-' : items.join(',');
}

/** Namespace and cluster have columns of their own. */
function labelsText(record: Readonly<Record<string, string>>): string {
  const shown = Object.entries(record).filter(
    ([key]) => !key.startsWith('io.kubernetes.pod.') && !key.startsWith('io.cilium.k8s.'),
  );
  return list(shown.map(([key, value]) => (value === '' ? key : `${key}=${value}`)));
}
