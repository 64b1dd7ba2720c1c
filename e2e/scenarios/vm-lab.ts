/** What the scenarios of machines share: two clusters with two pods and a machine each, and who reaches whom. */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { SECRET_NAMES } from '../../pki/names.ts';
import { REGISTRY_PORT } from '../lab/apiserver.ts';
import { pkiFolder } from '../lab/certificates.ts';
import type { CommandOptions, CommandResult } from '../lab/command.ts';
import type { KubernetesObject } from '../lab/kubernetes-object.ts';
import type { Lab, LabOptions } from '../lab/lab.ts';
import { openSettledLab } from '../lab/settled-lab.ts';
import { parseTopology, type TopologyInput } from '../lab/topology.ts';
import { urlOf } from './mesh.ts';

const CLI = fileURLToPath(new URL('../../cli/main.js', import.meta.url));
/** Port that everything in these labs serves. */
export const PORT = 8080;
export const NAMESPACE = 'shop';

/** Who is in the lab: pods and machines answer to the same questions. */
export type Place = 'client' | 'web-alpha' | 'db' | 'friend' | 'web-beta' | 'cache';

/** Pods, by cluster. */
export const PODS = ['client', 'web-alpha', 'friend', 'web-beta'] as const;
/** `db` is a machine of alpha, `cache` one of beta. */
export const MACHINES = ['db', 'cache'] as const;

/** Two clusters of a node each. Everybody is labelled `app: <name>`, but for the two `app: web`. */
export function vmTopology(): TopologyInput {
  const cluster = (name: string, id: number) => ({
    name,
    id,
    podCidrs: [`10.${id}.0.0/16`, `fd00:10:${id}::/48`],
    serviceCidrs: [`10.10${id}.0.0/16`, `fd00:10${id}::/112`],
    nodes: [`${name}-1`],
  });
  const pod = (name: string, node: string, app: string) => ({
    name,
    node,
    namespace: NAMESPACE,
    labels: { app },
    role: 'server' as const,
    ports: [{ name: 'http', port: PORT }],
  });
  const machine = (name: string, where: string) => ({
    name,
    cluster: where,
    namespace: NAMESPACE,
    labels: { app: name },
    role: 'server' as const,
    ports: [{ port: PORT }],
  });
  const service = (name: string) => ({
    name,
    namespace: NAMESPACE,
    selector: { app: name },
    annotations: { 'service.cilium.io/global': 'true' },
    ports: [{ name: 'http', port: 80, targetPort: PORT }],
  });
  return {
    clusters: [cluster('alpha', 1), cluster('beta', 2)],
    pods: [
      pod('client', 'alpha-1', 'client'),
      pod('web-alpha', 'alpha-1', 'web'),
      pod('friend', 'beta-1', 'friend'),
      pod('web-beta', 'beta-1', 'web'),
    ],
    machines: [machine('db', 'alpha'), machine('cache', 'beta')],
    services: [service('web'), service('db')],
  };
}

/** Builds such a lab; resolves when all know all. Throws LabError, and leaves nothing then. */
export function openVmLab(topology: TopologyInput, options: LabOptions = {}): Promise<Lab> {
  return openSettledLab(parseTopology(topology), options);
}

/** Runs a program in a pod or on a machine. */
export function runIn(lab: Lab, place: Place, argv: readonly string[]): Promise<CommandResult> {
  return isMachine(place) ? lab.machine(place).exec(argv) : lab.exec(place, argv);
}

/** Runs `clustermesh` on the first node of a cluster, as its administrator. */
export function asAdministrator(
  lab: Lab,
  cluster: string,
  argv: readonly string[],
  options: Pick<CommandOptions, 'env'> = {},
): Promise<CommandResult> {
  const plan = lab.cluster(cluster);
  const registry = `${plan.first.addresses[0]}:${REGISTRY_PORT}`;
  const certificates = join(pkiFolder(plan), SECRET_NAMES.admin);
  const who = ['--registry', registry, '--certificates', certificates];
  return lab.execOnNode(plan.first.name, [process.execPath, CLI, ...argv, ...who], {
    timeoutMs: 120_000,
    ...options,
  });
}

/** Address of a pod or a machine. */
export function addressOf(lab: Lab, place: Place, family: 4 | 6): string {
  return isMachine(place) ? lab.machine(place).ip(family) : lab.pod(place).ip(family);
}

/** One HTTP request from a pod or a machine; the answer's line, or why there is none. */
export async function call(lab: Lab, from: Place, url: string): Promise<string> {
  const argv = ['curl', '--silent', '--show-error', '--max-time', '2', url];
  const { code, stdout, stderr } = await runIn(lab, from, argv);
  return code === 0 ? stdout.trim() : stderr.trim();
}

/** The pairs, as `from > to`, that reach each other over a family: those of two pods are left out. */
export async function reachable(lab: Lab, family: 4 | 6): Promise<string[]> {
  const places: readonly Place[] = [...PODS, ...MACHINES];
  const found = await Promise.all(
    places.map(async (from) => {
      const others = places.filter((to) => to !== from && (isMachine(from) || isMachine(to)));
      const urls = others.map((to) => urlOf(addressOf(lab, to, family), PORT));
      const argv = ['curl', '--silent', '--parallel', '--max-time', '1', '--output', '/dev/null'];
      // curl wants one --output for each URL.
      const outputs = urls.slice(1).flatMap(() => ['--output', '/dev/null']);
      const form = '%{url_effective} %{http_code}\\n';
      const result = await runIn(lab, from, [...argv, ...outputs, '--write-out', form, ...urls]);
      const answered = new Set(
        result.stdout
          .split('\n')
          .filter((line) => line.endsWith(' 200'))
          .map((line) => line.slice(0, -' 200'.length)),
      );
      return others
        .filter((_, index) => answered.has(urls[index] ?? ''))
        .map((to) => `${from} > ${to}`);
    }),
  );
  return found.flat().sort();
}

/** Every pair that has a machine in it. */
export function allPairs(): string[] {
  const places: readonly Place[] = [...PODS, ...MACHINES];
  return places
    .flatMap((from) =>
      places
        .filter((to) => to !== from && (isMachine(from) || isMachine(to)))
        .map((to) => `${from} > ${to}`),
    )
    .sort();
}

/** A policy for those of a cluster with `app: <app>`. */
export function policyFor(app: string, spec: Record<string, unknown>): KubernetesObject {
  return {
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumNetworkPolicy',
    metadata: { name: app, namespace: NAMESPACE },
    spec: { endpointSelector: { matchLabels: { app } }, ...spec },
  };
}

/** Those with `app: <app>`, of the own cluster or of one that is named. */
export function those(app: string, cluster?: string): Record<string, unknown> {
  const named = cluster === undefined ? {} : { 'io.cilium.k8s.policy.cluster': cluster };
  return { matchLabels: { app, ...named } };
}

function isMachine(place: Place): place is (typeof MACHINES)[number] {
  return (MACHINES as readonly Place[]).includes(place);
}
