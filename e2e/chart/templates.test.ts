/** What the chart renders, without a cluster: lint, golden files, arguments, Secrets, permissions, and what its parts say of each other. */
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { type Test, test } from 'tap';
import { parse, parseAllDocuments, stringify } from 'yaml';
import { enrollmentEnvironment } from '../../agent/enrollment/enrollment-environment.ts';
import { CLEANUP_OPTIONS, RUN_OPTIONS } from '../../agent/options.ts';
import { AGENT_CA_NAME, pkiKubernetesCommand } from '../../cli/pki-kubernetes.ts';
import { APISERVER_OPTIONS } from '../../clustermesh-apiserver/options.ts';
import { parseOptions } from '../../mesh/runtime/options.ts';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { SECRET_NAMES } from '../../pki/names.ts';
import {
  CHART,
  LEAST,
  NAMESPACE,
  needHelm,
  objectOf,
  type RenderedObject,
  render,
  runHelm,
  valueFlags,
} from './helm.ts';
import { MATRIX } from './matrix.ts';

const helm = needHelm(process.env);
const MANIFESTS = 'clustermesh-apiserver/kubernetes/manifests';
const GOLDEN = 'e2e/chart/golden';

test('the chart, rendered', { skip: helm.skip, timeout: 240_000 }, async (t) => {
  const dir = await openTempDir('chart');
  t.teardown(() => dir[Symbol.asyncDispose]());
  const context = { program: helm.program, home: dir.path };
  const rendered = new Map<string, RenderedObject[]>();
  for (const [name, values] of Object.entries(MATRIX)) {
    rendered.set(name, await render(values, context));
  }
  const of = (name: string): RenderedObject[] => rendered.get(name) ?? [];

  await t.test('helm lint has nothing to say', async (child) => {
    const flags = valueFlags(LEAST['any-cni']);
    const { code, stdout } = await runHelm(['lint', '--strict', CHART, ...flags], context);
    child.equal(code, 0, stdout);
  });

  await t.test('golden files', async (child) => {
    for (const [file, name] of [
      ['any-cni.yaml', 'any-cni, defaults'],
      ['cilium.yaml', 'cilium, replicas and peers'],
    ] as const) {
      await isGolden(file, of(name), child);
    }
  });

  await t.test('every argument is an option of the program that gets it', async (child) => {
    for (const [name, objects] of rendered) await argumentsParse(objects, name, child);
  });

  await t.test('what is mounted is made', (child) => {
    for (const [name, objects] of rendered) mountsAreMade(objects, name, child);
    child.end();
  });

  await t.test('permissions are those of the manifests', async (child) => {
    await permissionsAgree(of('any-cni, everything'), [
      'rbac-any-cni.yaml',
      'rbac-controllers.yaml',
      'rbac-enrollment.yaml',
      'rbac-machines.yaml',
      'rbac-mcs.yaml',
      'rbac-peering.yaml',
      'rbac-service-exports.yaml',
    ])(child);
    await permissionsAgree(of('any-cni, defaults'), [
      'rbac-any-cni.yaml',
      'rbac-enrollment.yaml',
      'rbac-peering.yaml',
    ])(child);
    await permissionsAgree(of('cilium, defaults'), ['rbac-cilium.yaml', 'rbac-peering.yaml'])(
      child,
    );
    const files = (await readdir(projectPath(MANIFESTS))).filter((file) => /^rbac-/.test(file));
    const known = (await readdir(`${CHART}/templates/clustermesh-apiserver`)).filter((file) =>
      /^rbac-/.test(file),
    );
    child.same(known.sort(), files.sort(), 'each manifest has its template');
  });

  await t.test('definitions are those of the apiserver', async (child) => {
    for (const file of ['meshpeer-crd.yaml', 'meshmachine-crd.yaml']) {
      child.same(
        await readFile(`${CHART}/crds/${file}`, 'utf8'),
        await readFile(projectPath(`${MANIFESTS}/${file}`), 'utf8'),
        file,
      );
    }
  });

  await t.test('alerts and dashboards ask for metrics that there are', async (child) => {
    const code = await sourceText();
    const names = await askedMetrics();
    child.ok(names.size > 20, `${names.size} metrics`);
    for (const name of names) child.ok(isMetric(name, code), name);
    child.notOk(isMetric('isthmus_published_keyz', code), 'others are noticed');
  });

  await t.test('mode cilium has no agent', (child) => {
    for (const [name, objects] of rendered) {
      const hasAgent = objects.some(({ kind }) => kind === 'DaemonSet');
      child.equal(hasAgent, name.startsWith('any-cni'), name);
    }
    child.end();
  });

  await t.test('containers have no rights that they do not need', (child) => {
    for (const [name, objects] of rendered) rightsAreLeast(objects, name, child);
    child.end();
  });

  await t.test('who is alone on an etcd is replaced, others roll', (child) => {
    const strategyOf = (name: string): string =>
      objectOf(of(name), 'Deployment', 'clustermesh-apiserver').spec.strategy.type;
    child.equal(strategyOf('any-cni, defaults'), 'Recreate');
    child.equal(strategyOf('any-cni, cronJob, data in memory, privileged'), 'Recreate');
    child.equal(strategyOf('cilium, with a claim'), 'Recreate', 'one claim');
    child.equal(strategyOf('cilium, replicas and peers'), 'RollingUpdate');
    child.equal(strategyOf('any-cni, external etcd and replicas'), 'RollingUpdate');
    child.end();
  });

  await t.test('where AppArmor is an annotation still', async (child) => {
    const objects = await render(LEAST['any-cni'], { ...context, kubeVersion: '1.29.4' });
    const { template } = objectOf(objects, 'DaemonSet', 'clustermesh-agent').spec;
    const name = 'container.apparmor.security.beta.kubernetes.io/agent';
    child.equal(template.metadata.annotations[name], 'unconfined');
    child.equal(template.spec.securityContext.appArmorProfile, undefined);
  });

  await t.test('the version is that of the package', async (child) => {
    const chart = parse(await readFile(`${CHART}/Chart.yaml`, 'utf8'));
    const { version } = JSON.parse(await readFile(projectPath('package.json'), 'utf8'));
    child.same([chart.version, chart.appVersion], [version, version]);
  });
});

/** Compares with a file, in which what is made anew each time is left out. `TAP_SNAPSHOT=1` writes it. */
async function isGolden(file: string, objects: RenderedObject[], t: Test): Promise<void> {
  const text = objects
    .filter(({ kind }) => !kind.endsWith('RoleBinding') && !/Role$/.test(kind))
    .map((object) => stringify(withoutSecrets(object), { lineWidth: 0 }))
    .join('---\n');
  const path = projectPath(`${GOLDEN}/${file}`);
  if (process.env.TAP_SNAPSHOT === '1') await writeFile(path, text);
  t.equal(text, await readFile(path, 'utf8'), file);
}

function withoutSecrets(object: RenderedObject): unknown {
  const masked = (fields: Readonly<Record<string, string>>): Record<string, string> =>
    Object.fromEntries(Object.keys(fields).map((field) => [field, '(not shown)']));
  if (object.kind === 'Secret') {
    const { annotations, ...metadata } = object.metadata;
    return { ...object, metadata, data: masked(object.data) };
  }
  if (object.metadata.name === AGENT_CA_NAME) return { ...object, data: masked(object.data) };
  // Whole dashboards and alerts are files of the chart.
  if (object.kind === 'ConfigMap' && object.metadata.name.includes('dashboard')) {
    return { ...object, data: masked(object.data) };
  }
  return object.kind === 'PrometheusRule' ? { ...object, spec: '(files/alerts.yaml)' } : object;
}

interface Container {
  readonly name: string;
  readonly command: readonly string[];
  readonly args: readonly string[];
  readonly env?: readonly { readonly name: string }[];
  readonly securityContext: Readonly<Record<string, unknown>>;
  readonly volumeMounts?: readonly { readonly name: string }[];
}

function podsOf(
  objects: readonly RenderedObject[],
): { owner: RenderedObject; pod: RenderedObject }[] {
  return objects.flatMap((owner) => {
    const template =
      owner.kind === 'CronJob' ? owner.spec.jobTemplate.spec.template : owner.spec?.template;
    return template?.spec?.containers === undefined ? [] : [{ owner, pod: template.spec }];
  });
}

function containersOf(pod: RenderedObject): Container[] {
  return [...(pod.initContainers ?? []), ...pod.containers];
}

/** Parses the arguments as the programs do. Whatever etcd is given it is started with in release.test.ts. */
async function argumentsParse(objects: RenderedObject[], name: string, t: Test): Promise<void> {
  let parsed = 0;
  for (const { pod, owner } of podsOf(objects)) {
    for (const { command, args, env = [] } of containersOf(pod)) {
      const what = `${name}: ${owner.kind} ${command.join(' ')}`;
      const variables = Object.fromEntries(env.map((variable) => [variable.name, '192.0.2.1']));
      const given = args.map((arg) => arg.replace('$(NODE_NAME)', 'node-1'));
      switch (command[0]) {
        case 'clustermesh-apiserver':
          t.doesNotThrow(() => parseOptions(APISERVER_OPTIONS, given, {}), what);
          break;
        case 'clustermesh-agent': {
          const [verb, ...rest] = given;
          if (verb === 'cleanup') {
            t.doesNotThrow(() => parseOptions(CLEANUP_OPTIONS, rest, {}), what);
            break;
          }
          t.equal(verb, 'run', what);
          t.doesNotThrow(
            () => parseOptions(RUN_OPTIONS, rest, enrollmentEnvironment(rest, variables)),
            what,
          );
          break;
        }
        case 'clustermesh': {
          const [pki, verb, ...rest] = given;
          t.same([pki, verb], ['pki', 'kubernetes'], what);
          const parser = pkiKubernetesCommand(() => undefined)
            .exitOverride()
            .configureOutput({ writeErr: () => undefined })
            .action(() => undefined);
          await t.resolves(parser.parseAsync(rest, { from: 'user' }), what);
          break;
        }
        case 'sleep':
        case 'etcd':
          continue;
        default:
          t.fail(`${what}: no program of the image`);
      }
      parsed += 1;
    }
  }
  t.ok(parsed >= 2, `${name}: ${parsed} programs`);
}

/** Secrets that somebody else gives, by the values that name them. */
const GIVEN = ['etcd-client'];

/** Each Secret, ConfigMap and key that a pod mounts is rendered, made by the Job with exactly its arguments, or by cert-manager. */
function mountsAreMade(objects: RenderedObject[], name: string, t: Test): void {
  const made = new Set<string>();
  const add = (kind: string, object: string, keys: readonly string[]): void => {
    for (const key of keys) made.add(`${kind} ${object} ${key}`);
  };
  const PAIR = ['ca.crt', 'tls.crt', 'tls.key'];
  for (const object of objects) {
    const { kind, metadata } = object;
    if (kind === 'Secret' || kind === 'ConfigMap')
      add(kind, metadata.name, Object.keys(object.data));
    if (kind === 'Certificate') add('Secret', object.spec.secretName, PAIR);
    if (kind !== 'Job') continue;
    const [{ args }] = object.spec.template.spec.containers;
    const isAll = !args.includes('--only=enrollment');
    add('Secret', SECRET_NAMES.enrollment, PAIR);
    if (!isAll) continue;
    for (const secret of Object.values(SECRET_NAMES)) add('Secret', secret, PAIR);
    add('ConfigMap', AGENT_CA_NAME, ['ca.crt']);
  }
  for (const { owner, pod } of podsOf(objects)) {
    const volumes = new Map<string, RenderedObject>(
      pod.volumes.map((volume: RenderedObject) => [volume.name, volume]),
    );
    const mounted = containersOf(pod).flatMap(({ volumeMounts = [] }) => volumeMounts);
    t.same(
      [...new Set(mounted.map((mount) => mount.name))].sort(),
      [...volumes.keys()].sort(),
      `${name}: ${owner.kind} ${owner.metadata.name} mounts what it declares`,
    );
    for (const { secret, configMap } of volumes.values()) {
      const [kind, source, object] =
        secret === undefined
          ? ['ConfigMap', configMap, configMap?.name]
          : ['Secret', secret, secret.secretName];
      if (source === undefined || GIVEN.includes(object)) continue;
      const keys = source.items?.map((item: { key: string }) => item.key) ?? ['tls.crt', 'tls.key'];
      for (const key of keys)
        t.ok(made.has(`${kind} ${object} ${key}`), `${name}: ${object} ${key}`);
    }
  }
}

function permissionsAgree(objects: RenderedObject[], files: readonly string[]) {
  return async (t: Test): Promise<void> => {
    const wanted: RenderedObject[] = [];
    for (const file of files) {
      const text = await readFile(projectPath(`${MANIFESTS}/${file}`), 'utf8');
      const documents = parseAllDocuments(text.replaceAll('isthmus-system', NAMESPACE));
      wanted.push(...documents.map((document) => document.toJS()));
    }
    const bare = (list: RenderedObject[]): unknown =>
      list
        .filter(
          ({ kind, metadata }) => /Role/.test(kind) && !metadata.name.startsWith('clustermesh-'),
        )
        .map(({ metadata: { labels, ...metadata }, ...object }) => ({ ...object, metadata }))
        .sort((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1));
    t.same(bare(objects), bare(wanted), files.join(', '));
  };
}

function keyOf({ kind, metadata }: Pick<RenderedObject, 'kind' | 'metadata'>): string {
  return `${kind} ${metadata.name}`;
}

function rightsAreLeast(objects: RenderedObject[], name: string, t: Test): void {
  for (const { owner, pod } of podsOf(objects)) {
    const isAgent = owner.kind === 'DaemonSet';
    if (isAgent) t.equal(pod.automountServiceAccountToken, false, `${name}: no token of the API`);
    else t.equal(pod.securityContext.runAsNonRoot, true, `${name}: ${owner.kind} is not root`);
    t.equal(pod.securityContext.seccompProfile.type, 'RuntimeDefault', `${name}: ${owner.kind}`);
    for (const { name: container, command, securityContext } of containersOf(pod)) {
      const what = `${name}: ${owner.kind} ${container}`;
      t.equal(securityContext.readOnlyRootFilesystem, true, what);
      if (isAgent && command[0] === 'clustermesh-agent') {
        const isPrivileged = name.includes('privileged');
        t.equal(securityContext.privileged, isPrivileged, what);
        continue;
      }
      t.same(securityContext.capabilities, { drop: ['ALL'] }, what);
      t.equal(securityContext.allowPrivilegeEscalation, false, what);
    }
  }
}

/** Programs' code without tests. */
async function sourceText(): Promise<string> {
  const texts: string[] = [];
  for (const folder of ['mesh', 'agent', 'clustermesh-apiserver']) {
    for (const file of await readdir(projectPath(`dist/${folder}`), { recursive: true })) {
      if (!file.endsWith('.js') || file.endsWith('.test.js')) continue;
      texts.push(await readFile(projectPath(`dist/${folder}/${file}`), 'utf8'));
    }
  }
  return texts.join('\n');
}

/** Names in the expressions of alerts and dashboards. */
async function askedMetrics(): Promise<Set<string>> {
  const alerts = await readFile(`${CHART}/files/alerts.yaml`, 'utf8');
  const expressions = [...alerts.matchAll(/expr: (.*)/g)].map(([, expr = '']) => expr);
  for (const file of await readdir(`${CHART}/files/dashboards`)) {
    const { panels } = JSON.parse(await readFile(`${CHART}/files/dashboards/${file}`, 'utf8')) as {
      panels: { targets: { expr: string }[] }[];
    };
    for (const { targets } of panels) expressions.push(...targets.map(({ expr }) => expr));
  }
  return new Set(expressions.flatMap((expr) => expr.match(/\b(?:isthmus|cilium)_\w+/g) ?? []));
}

/** Whether the code has a name: whole, or put together of a beginning and an end that both are there. */
function isMetric(name: string, code: string): boolean {
  const family = name.replace(/_bucket$/, '');
  if (code.includes(`'${family}'`)) return true;
  const rest = family.replace(/^cilium_(clustermesh_apiserver_|kvstoremesh_|clustermesh_)?/, '');
  if (rest !== family && code.includes(`}${rest}\``)) return true;
  const beginnings = new Set(
    [...code.matchAll(/`(isthmus_\w*)\$\{/g)].map(([, text = '']) => text),
  );
  return [...beginnings].some(
    (text) => family.startsWith(text) && code.includes(`'${family.slice(text.length)}'`),
  );
}
