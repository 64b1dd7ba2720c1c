/** A case of the corpus as what an agent is told: identities, addresses, policies and the rest, each under its key. */
import { type Labels, labelsFromRecord } from '../../../mesh/wire/identity.ts';
import { parseClusterName } from '../../../mesh/wire/ids.ts';
import { type IpPrefix, parseIpAddress, parseIpPrefix } from '../../../mesh/wire/ip.ts';
import type { LocalPolicy } from '../../../mesh/wire/local-policy.ts';
import { type CidrGroup, parseCidrGroup } from '../cidr-group.ts';
import type { PolicySubject } from '../compile.ts';
import { parsePolicy } from '../parse.ts';
import type { NamedPorts, ServicePeer } from '../peer-sets.ts';
import type { ParsedPolicy } from '../rule.ts';
import { type CorpusCase, type CorpusCluster, identityLabels, parseFlow } from './corpus.ts';
import { enforcingCluster, nodeLabels } from './corpus-oracle.ts';

/** What an agent is told. */
export interface CaseState {
  readonly identities: ReadonlyMap<number, Labels>;
  readonly ports: ReadonlyMap<number, NamedPorts>;
  /** Identity of whoever has an address. */
  readonly holders: ReadonlyMap<IpPrefix, number>;
  readonly nodes: ReadonlyMap<string, Labels>;
  readonly services: ReadonlyMap<string, ServicePeer>;
  readonly groups: ReadonlyMap<string, CidrGroup>;
  readonly policies: ReadonlyMap<string, ParsedPolicy>;
  /** Pods, and the node, that policies of the cluster are about. */
  readonly judged: ReadonlyMap<string, { subject: PolicySubject; namedPorts: NamedPorts }>;
}

/** Gives identities their numbers: the same labels have the same for ever. */
export interface IdentityNumbers {
  of(labels: Labels, cluster: CorpusCluster): number;
}

const FIRST_IDENTITY = { alpha: 65_536 + 256, beta: 131_072 + 256 } as const;

/** Makes one that has given none. */
export function createIdentityNumbers(): IdentityNumbers {
  const given = new Map<string, number>();
  return {
    of(labels, cluster) {
      const key = JSON.stringify(labels);
      const number = given.get(key) ?? FIRST_IDENTITY[cluster] + given.size;
      given.set(key, number);
      return number;
    },
  };
}

/** Reads a case for the agent of one cluster, and the problems that parsing finds. */
export function readState(
  corpusCase: CorpusCase,
  { cluster, numbers }: { cluster: CorpusCluster; numbers: IdentityNumbers },
): { state: CaseState; problems: string[] } {
  const { world } = corpusCase;
  const endpoints = Object.entries(world.endpoints).map(([name, endpoint], index) => ({
    name,
    identity: numbers.of(endpoint.identity, endpoint.cluster),
    labels: endpoint.identity,
    address: parseIpAddress(`10.0.1.${index + 1}`),
    ports: namedPorts(endpoint.ports),
  }));
  const addresses = new Map(endpoints.map(({ name, address }) => [name, address]));
  const objects = corpusCase.policies[cluster].map(localPolicy);
  const groups = objects.filter(({ kind }) => kind === 'CiliumCIDRGroup').map(parseCidrGroup);
  const policies = objects
    .filter(({ kind }) => kind !== 'CiliumCIDRGroup')
    .map((policy) =>
      parsePolicy(policy, {
        clusterName: parseClusterName(cluster),
        defaultLocalCluster: corpusCase.defaultLocalCluster,
      }),
    );
  const state: CaseState = {
    identities: new Map(endpoints.map(({ identity, labels }) => [identity, labels])),
    ports: new Map(
      endpoints
        .filter(({ ports }) => ports.length > 0)
        .map(({ identity, ports }) => [identity, ports]),
    ),
    holders: new Map(
      endpoints.map(({ address, identity }) => [parseIpPrefix(`${address}/32`), identity]),
    ),
    nodes: new Map(Object.keys(world.nodes).map((name) => [name, nodeLabels(world, name)])),
    services: new Map(
      corpusCase.services.map(({ name, namespace, labels, backends }) => [
        `${namespace}/${name}`,
        {
          name,
          namespace,
          labels: labelsFromRecord({ ...labels }),
          addresses: backends.map((backend) =>
            parseIpAddress(addresses.get(backend) ?? world.outside[backend]),
          ),
        },
      ]),
    ),
    groups: new Map(groups.map((group) => [group.name, group])),
    policies: new Map(
      policies.map((policy, index) => [
        `${index} ${policy.kind} ${policy.namespace}/${policy.name}`,
        policy,
      ]),
    ),
    judged: new Map(
      Object.keys({ ...world.endpoints, ...world.nodes })
        .filter((name) => enforcingCluster(world, name) === cluster)
        .map((name) => [name, aboutOf(corpusCase, name)]),
    ),
  };
  const problems = [...groups, ...policies].flatMap((read) =>
    read.problems.map(({ path, message }) => `${path}: ${message}`),
  );
  return { state, problems };
}

/** A manifest as it travels to an agent. */
export function localPolicy(manifest: unknown): LocalPolicy {
  const { kind, metadata } = manifest as {
    kind: LocalPolicy['kind'];
    metadata: { name: string; namespace?: string };
  };
  return {
    kind,
    namespace: metadata.namespace ?? '',
    name: metadata.name,
    generation: 1,
    manifest,
  };
}

function aboutOf(
  { world }: CorpusCase,
  name: string,
): { subject: PolicySubject; namedPorts: NamedPorts } {
  const endpoint = world.endpoints[name];
  if (endpoint === undefined) {
    return { subject: { kind: 'nodes', labels: nodeLabels(world, name) }, namedPorts: [] };
  }
  return {
    subject: { kind: 'pods', labels: identityLabels(world, name) },
    namedPorts: namedPorts(endpoint.ports),
  };
}

function namedPorts(ports: Readonly<Record<string, string>>): NamedPorts {
  return Object.entries(ports).map(([name, port]) => ({ name, ...parseFlow(port.toLowerCase()) }));
}
