/** `clustermesh pki kubernetes`: the certificates of a cluster as Secrets of its API server, made and renewed. */
import { isIP } from 'node:net';
import { Command, InvalidArgumentError, Option } from 'commander';
import { z } from 'zod';
import { type KubernetesApi, openKubernetes } from '../clustermesh-apiserver/kubernetes/api.ts';
import { KubernetesError } from '../clustermesh-apiserver/kubernetes/kubernetes-error.ts';
import { RESOURCES, resourcePath } from '../clustermesh-apiserver/kubernetes/resource.ts';
import { systemClock } from '../mesh/runtime/clock.ts';
import { parseClusterName } from '../mesh/wire/ids.ts';
import { parseAuthority, parseCertificates } from '../pki/authority-file.ts';
import { type CertificateAuthority, createCa } from '../pki/ca.ts';
import { adminLeaf, localLeaf, SECRET_NAMES, serverLeaf } from '../pki/names.ts';
import {
  judgeSecret,
  makeSecret,
  type SecretContent,
  type SecretRules,
  type WantedCertificate,
} from '../pki/secret-content.ts';
import { CliError } from './cli-error.ts';

/** ConfigMap with the authorities that agents believe. */
export const AGENT_CA_NAME = 'clustermesh-agent-ca';

const KINDS = ['server', 'admin', 'remote', 'local', 'enrollment'] as const;
type Kind = (typeof KINDS)[number];

interface Flags {
  readonly clusterName: string;
  readonly namespace?: string;
  readonly kubeconfig?: string;
  readonly context?: string;
  readonly caSecret: string;
  readonly caValidityDays: number;
  readonly validityDays: number;
  readonly remoteName: string;
  readonly dns: readonly string[];
  readonly ip: readonly string[];
  readonly only?: readonly Kind[];
}

/** Builds the command. */
export function pkiKubernetesCommand(print: (line: string) => void): Command {
  return new Command('kubernetes')
    .description(
      "make a cluster's certificates as Secrets of its API server, and renew those at two thirds of their life; the rest is left alone",
    )
    .requiredOption('--cluster-name <name>', 'name of the cluster', clusterName)
    .option('--namespace <namespace>', "namespace of the Secrets; default: our pod's own")
    .option('--kubeconfig <file>', 'default: the service account of our pod')
    .option('--context <name>', 'context of the kubeconfig; default: the current one')
    .option('--ca-secret <name>', 'Secret of the authority: ca.crt, ca.key', 'cilium-ca')
    .option('--ca-validity-days <days>', 'life of an authority that is made', days, 1095)
    .option('--validity-days <days>', 'life of a certificate', days, 1095)
    .option('--remote-name <name>', 'common name that Cilium peers are shown', 'remote')
    .option('--dns <name>', 'further DNS name of the server (may be repeated)', collect, [])
    .option('--ip <address>', 'further address of the server (may be repeated)', collectIp, [])
    .addOption(
      new Option(
        '--only <kinds...>',
        'these alone, below an authority that is there; default: all, and the authority',
      ).choices(KINDS),
    )
    .action((flags: Flags) => writeSecrets(flags, print));
}

async function writeSecrets(flags: Flags, print: (line: string) => void): Promise<void> {
  try {
    await using api = await openKubernetes({ ...flags, clock: systemClock });
    const secrets = openObjects(api, flags.namespace ?? api.namespace);
    const { ca, roots } = await findCa(secrets, flags, print);
    const rules: SecretRules = { ca, roots, now: Date.now() };
    for (const kind of flags.only ?? KINDS) {
      await writeSecret(secrets, { kind, flags, rules, print });
    }
    if (flags.only === undefined) {
      const bundle = { 'ca.crt': roots };
      const change = await secrets.writeConfigMap(AGENT_CA_NAME, bundle);
      print(`ConfigMap ${AGENT_CA_NAME}: ${change}`);
    }
  } catch (error) {
    throw explained(error);
  }
}

async function writeSecret(
  secrets: Objects,
  options: {
    readonly kind: Kind;
    readonly flags: Flags;
    readonly rules: SecretRules;
    readonly print: (line: string) => void;
  },
): Promise<void> {
  const { kind, flags, rules, print } = options;
  const name = SECRET_NAMES[kind];
  const wanted = wantedOf(kind, flags, secrets.namespace);
  const old = await secrets.readSecret(name);
  const decision = judgeSecret(old?.content, wanted, rules);
  switch (decision.kind) {
    case 'keep':
      print(`Secret ${name}: kept`);
      return;
    case 'change-bundle':
      await secrets.writeSecret(name, { ...old?.content, 'ca.crt': rules.roots }, old);
      print(`Secret ${name}: believes the authority as it is now`);
      return;
    case 'make': {
      const content = await makeSecret(wanted, rules, flags.validityDays);
      await secrets.writeSecret(name, content, old);
      const [certificate] = parseCertificates(content['tls.crt'] ?? '');
      print(`Secret ${name}: made, valid to ${certificate.validTo} (${decision.reason})`);
      return;
    }
    default:
      decision satisfies never;
  }
}

function wantedOf(kind: Kind, flags: Flags, namespace: string): WantedCertificate {
  const { clusterName: cluster, dns: dnsNames, ip: ipAddresses, remoteName } = flags;
  switch (kind) {
    case 'server': {
      const leaf = serverLeaf(cluster, { namespace, dnsNames, ipAddresses });
      const once = (names: readonly string[] = []): string[] => [...new Set(names)];
      const names = { dnsNames: once(leaf.dnsNames), ipAddresses: once(leaf.ipAddresses) };
      return { kind: 'leaf', leaf: { ...leaf, ...names } };
    }
    case 'admin':
      return { kind: 'leaf', leaf: adminLeaf(cluster) };
    case 'remote':
      return { kind: 'leaf', leaf: { commonName: remoteName, usage: 'client' } };
    case 'local':
      return { kind: 'leaf', leaf: localLeaf(cluster) };
    case 'enrollment':
      return { kind: 'enrollment' };
    default:
      return kind satisfies never;
  }
}

/** The authority that signs, and the PEM of all that are believed. With `--only` it has to be there. */
async function findCa(
  secrets: Objects,
  flags: Flags,
  print: (line: string) => void,
): Promise<{ ca: CertificateAuthority; roots: string }> {
  const name = flags.caSecret;
  const there = await secrets.readSecret(name);
  const place = `Secret ${secrets.namespace}/${name}`;
  if (there === undefined && flags.only !== undefined) {
    throw new CliError(
      'problem',
      `there is no ${place}: it holds the authority (ca.crt, ca.key) that is to sign`,
    );
  }
  if (there === undefined) {
    const ca = await createCa({ validityDays: flags.caValidityDays });
    await secrets.writeSecret(name, { 'ca.crt': ca.root, 'ca.key': ca.privateKey }, undefined);
    print(`Secret ${name}: made`);
    return { ca, roots: ca.root };
  }
  const { 'ca.crt': certificate = '', 'ca.key': key = '' } = there.content;
  const names = { certificate: `ca.crt of ${place}`, key: `ca.key of ${place}` };
  const ca = parseAuthority({ certificate, key }, names, Date.now());
  return { ca, roots: parseCertificates(certificate).map(String).join('') };
}

/** A Secret that is there; `version` guards against somebody else's write in between. */
interface FoundSecret {
  readonly content: SecretContent;
  readonly metadata: Readonly<Record<string, unknown>>;
  readonly type: string;
}

/** Secrets and ConfigMaps of one namespace. */
interface Objects {
  readonly namespace: string;
  readSecret(name: string): Promise<FoundSecret | undefined>;
  writeSecret(name: string, content: SecretContent, old: FoundSecret | undefined): Promise<void>;
  /** Says what was done. */
  writeConfigMap(name: string, data: SecretContent): Promise<'made' | 'changed' | 'kept'>;
}

const secretSchema = z.object({
  metadata: z.record(z.string(), z.unknown()),
  type: z.string().default('Opaque'),
  data: z.record(z.string(), z.base64()).default({}),
});
const configMapSchema = z.object({
  metadata: z.record(z.string(), z.unknown()),
  data: z.record(z.string(), z.string()).default({}),
});

function openObjects(api: KubernetesApi, namespace: string): Objects {
  const never = new AbortController().signal;
  const at = (kind: 'secrets' | 'configMaps', name?: string): string =>
    resourcePath(RESOURCES[kind], { namespace, name });
  const find = async (path: string): Promise<unknown> => {
    try {
      return (await api.request({ method: 'GET', path, signal: never })).body;
    } catch (error) {
      if (error instanceof KubernetesError && error.code === 'not-found') return undefined;
      throw error;
    }
  };
  const write = async (
    kind: 'secrets' | 'configMaps',
    object: { readonly metadata: unknown; readonly [field: string]: unknown },
    replaced: string | undefined,
  ): Promise<void> => {
    await api.request({
      method: replaced === undefined ? 'POST' : 'PUT',
      path: at(kind, replaced),
      body: { apiVersion: 'v1', kind: RESOURCES[kind].kind, ...object },
      signal: never,
    });
  };
  return {
    namespace,
    async readSecret(name) {
      const body = await find(at('secrets', name));
      if (body === undefined) return undefined;
      const { metadata, type, data } = secretSchema.parse(body);
      const entries = Object.entries(data).map(([field, text]) => [
        field,
        Buffer.from(text, 'base64').toString('utf8'),
      ]);
      return { content: Object.fromEntries(entries), metadata, type };
    },
    async writeSecret(name, content, old) {
      const isAuthority = content['tls.crt'] === undefined;
      const entries = Object.entries(content).map(([field, text]) => [
        field,
        Buffer.from(text, 'utf8').toString('base64'),
      ]);
      const object = {
        metadata: old?.metadata ?? { name, namespace, labels: LABELS },
        type: old?.type ?? (isAuthority ? 'Opaque' : 'kubernetes.io/tls'),
        data: Object.fromEntries(entries),
      };
      await write('secrets', object, old === undefined ? undefined : name);
    },
    async writeConfigMap(name, data) {
      const body = await find(at('configMaps', name));
      if (body === undefined) {
        await write(
          'configMaps',
          { metadata: { name, namespace, labels: LABELS }, data },
          undefined,
        );
        return 'made';
      }
      const old = configMapSchema.parse(body);
      if (JSON.stringify(old.data) === JSON.stringify(data)) return 'kept';
      await write('configMaps', { metadata: old.metadata, data }, name);
      return 'changed';
    },
  };
}

const LABELS = {
  'app.kubernetes.io/part-of': 'isthmus',
  'app.kubernetes.io/managed-by': 'clustermesh-pki',
};

function explained(error: unknown): unknown {
  if (!(error instanceof KubernetesError)) return error;
  const isAway = error.code === 'unavailable' || error.code === 'timeout';
  return new CliError(isAway ? 'unreachable' : 'problem', error.message, { cause: error });
}

function clusterName(text: string): string {
  try {
    return parseClusterName(text);
  } catch (error) {
    throw new InvalidArgumentError(error instanceof Error ? error.message : String(error));
  }
}

function days(text: string): number {
  if (/^[1-9]\d{0,4}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('expected a number of days, 1 to 99999');
}

function collect(text: string, before: readonly string[]): string[] {
  return [...before, text];
}

function collectIp(text: string, before: readonly string[]): string[] {
  if (isIP(text) === 0) throw new InvalidArgumentError('expected an IP address');
  return [...before, text];
}
