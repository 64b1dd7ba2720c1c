/** The corpus asked of the oracle: its parties and references in the oracle's terms. */
import { CLUSTER_LABEL, type Labels, labelsFromRecord } from '../../../mesh/wire/identity.ts';
import {
  type CorpusCase,
  type CorpusCluster,
  type CorpusFlow,
  type CorpusWorld,
  identityLabels,
} from './corpus.ts';
import { oracleVerdict } from './oracle.ts';
import type { OracleContext, OracleGroup, OracleParty } from './oracle-peers.ts';

/** Asks the oracle about a case: what the policies about each end of a flow say. */
export function openOracle(
  corpusCase: CorpusCase,
): (flow: CorpusFlow) => { egress: 'allow' | 'deny'; ingress: 'allow' | 'deny' } {
  const contexts = {
    alpha: oracleContext(corpusCase, 'alpha'),
    beta: oracleContext(corpusCase, 'beta'),
  };
  const ask = (flow: CorpusFlow, direction: 'ingress' | 'egress'): 'allow' | 'deny' => {
    const [subjectName, peerName] =
      direction === 'egress' ? [flow.from, flow.to] : [flow.to, flow.from];
    const cluster = enforcingCluster(corpusCase.world, subjectName);
    if (cluster === undefined) return 'allow';
    return oracleVerdict(corpusCase.policies[cluster], contexts[cluster], {
      direction,
      subject: oracleParty(corpusCase.world, subjectName, cluster),
      peer: oracleParty(corpusCase.world, peerName, cluster),
      protocol: flow.protocol,
      port: flow.port,
    });
  };
  return (flow) => ({ egress: ask(flow, 'egress'), ingress: ask(flow, 'ingress') });
}

/** The cluster whose agent judges a party; `undefined` for what no agent of the corpus judges. */
export function enforcingCluster(world: CorpusWorld, name: string): CorpusCluster | undefined {
  const endpoint = world.endpoints[name];
  if (endpoint !== undefined) return endpoint.cluster;
  const node = world.nodes[name];
  return node !== undefined && name === ownNode(node.cluster) ? node.cluster : undefined;
}

/** The node that the endpoints of a cluster run on. */
export function ownNode(cluster: CorpusCluster): string {
  return `${cluster}-1`;
}

/** Labels of a node as policies see them, with that of its cluster. */
export function nodeLabels(world: CorpusWorld, name: string): Labels {
  const node = world.nodes[name];
  if (node === undefined) throw new Error(`no node ${name}`);
  return [
    ...labelsFromRecord(node.labels, 'node'),
    { source: 'k8s', key: CLUSTER_LABEL, value: node.cluster },
  ];
}

/** What policies of a cluster refer to. */
export function oracleContext(corpusCase: CorpusCase, cluster: CorpusCluster): OracleContext {
  const { world } = corpusCase;
  return {
    cluster,
    defaultLocalCluster: corpusCase.defaultLocalCluster,
    groups: corpusCase.policies[cluster].flatMap(oracleGroup),
    services: corpusCase.services.map(({ backends, labels, ...service }) => ({
      ...service,
      labels: labelsFromRecord({ ...labels }),
      backends: backends.map((name) => oracleParty(world, name, cluster)),
    })),
  };
}

/** A party by its name in a table, as the agent of a cluster sees it. */
export function oracleParty(world: CorpusWorld, name: string, cluster: CorpusCluster): OracleParty {
  const endpoint = world.endpoints[name];
  if (endpoint !== undefined) {
    return { kind: 'pod', labels: identityLabels(world, name), ports: endpoint.ports };
  }
  const node = name === 'reserved:host' ? ownNode(cluster) : name;
  if (world.nodes[node] !== undefined) {
    return { kind: 'node', labels: nodeLabels(world, node), own: node === ownNode(cluster) };
  }
  const address = world.outside[name];
  if (address !== undefined) return { kind: 'address', address };
  return { kind: 'reserved', name: name.replace('reserved:', '') };
}

function oracleGroup(manifest: unknown): OracleGroup[] {
  const { kind, metadata, spec } = manifest as {
    kind: string;
    metadata: { name: string; labels?: Record<string, string> };
    spec: { externalCIDRs?: string[] };
  };
  if (kind !== 'CiliumCIDRGroup') return [];
  const labels = labelsFromRecord(metadata.labels ?? {}, 'cidrgroup');
  return [{ name: metadata.name, labels, prefixes: spec.externalCIDRs ?? [] }];
}
