/**
 * The agents' DaemonSet on a node: what helm renders runs as a container runtime would run it, with its capabilities, its read-only
 * root, its mounts and its arguments and nothing else, in a cluster with a real API server. It does all that an agent does; without
 * any one of its capabilities it says which; and its cleanup leaves the node as it was.
 */
import { chmodSync, chownSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Test, test } from 'tap';
import { followEvents } from '../../agent/api/monitor-client.ts';
import { problemsOf } from '../../agent/api/render.ts';
import type { AgentStatus } from '../../agent/api/status.ts';
import { NEEDED_CAPABILITIES, parseEffective } from '../../agent/datapath/capabilities.ts';
import { findCgroupRoot } from '../../agent/datapath/cgroup-root.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { type CommandResult, execute, run } from '../lab/command.ts';
import { HOST_STATE_COMMAND } from '../lab/host-state.ts';
import type { Lab } from '../lab/lab.ts';
import { LabError } from '../lab/lab-error.ts';
import { type NodePlan, planLab } from '../lab/plan.ts';
import { labSkipReason, PLUGIN_FOLDER } from '../lab/preflight.ts';
import { parseTopology } from '../lab/topology.ts';
import { needKube } from '../peers/kube-programs.ts';
import { curl, curlMany, openMesh, urlOf } from '../scenarios/mesh.ts';
import { hostFolders, nodeCommand, prepareKubelet, renderAgent } from './agent-node.ts';
import { buildRefuseCalls } from './contained.ts';
import { type ChartValues, needHelm, type RenderedObject } from './helm.ts';

const helm = needHelm(process.env);
const skip = labSkipReason(process.env) || needKube(process.env).skip || helm.skip;
const NODE = 'alpha-1';
const CONF_FILE = '10-net.conflist';
/** What a CNI has put there. */
const CONF = { cniVersion: '1.0.0', name: 'net', plugins: [{ type: 'ptp', ipam: { type: 'x' } }] };
const CONF_TEXT = `${JSON.stringify(CONF, null, 2)}\n`;

const TOPOLOGY = parseTopology({
  clusters: [
    {
      name: 'alpha',
      id: 1,
      podCidrs: ['10.1.0.0/16', 'fd00:10:1::/48'],
      serviceCidrs: ['10.101.0.0/16'],
      nodes: [NODE],
      objects: 'kubernetes',
      nodesEnroll: true,
    },
    {
      name: 'beta',
      id: 2,
      podCidrs: ['10.2.0.0/16', 'fd00:10:2::/48'],
      serviceCidrs: ['10.102.0.0/16'],
      nodes: ['beta-1'],
    },
  ],
  pods: [
    { name: 'client', node: NODE, labels: { app: 'client' } },
    // As if it had been there before the mesh.
    { name: 'early', node: NODE, chained: false, ...serverOf('early') },
    { name: 'vault', node: NODE, ...serverOf('vault') },
    { name: 'web-alpha', node: NODE, ...serverOf('web') },
    { name: 'web-beta', node: 'beta-1', ...serverOf('web') },
    { name: 'friend', node: 'beta-1', labels: { app: 'friend' } },
    { name: 'stranger', node: 'beta-1', labels: { app: 'stranger' } },
  ],
  services: [
    {
      name: 'web',
      selector: { app: 'web' },
      annotations: { 'service.cilium.io/global': 'true' },
      ports: [{ port: 80, targetPort: 8080 }],
    },
  ],
  manifests: [
    // Nobody may call it: only answers to its own calls come through.
    {
      cluster: 'alpha',
      object: {
        apiVersion: 'networking.k8s.io/v1',
        kind: 'NetworkPolicy',
        metadata: { name: 'client', namespace: 'default' },
        spec: { podSelector: { matchLabels: { app: 'client' } }, policyTypes: ['Ingress'] },
      },
    },
    {
      cluster: 'alpha',
      object: {
        apiVersion: 'cilium.io/v2',
        kind: 'CiliumNetworkPolicy',
        metadata: { name: 'vault', namespace: 'default' },
        spec: {
          endpointSelector: { matchLabels: { app: 'vault' } },
          ingress: [
            {
              fromEndpoints: [
                { matchLabels: { app: 'friend', 'io.cilium.k8s.policy.cluster': 'beta' } },
              ],
            },
          ],
        },
      },
    },
  ],
});

function serverOf(app: string) {
  return { labels: { app }, role: 'server', ports: [{ port: 8080 }] };
}

interface Rig {
  readonly lab: Lab;
  readonly node: NodePlan;
  /** The pod as it runs. */
  readonly pod: RenderedObject;
  /** What the node was like before the agent came. */
  readonly before: string;
  /** The pod with other values. */
  readonly render: (values: ChartValues) => Promise<RenderedObject>;
  /** Runs a container of a pod to its end, at its place on the node. */
  readonly runOnce: (pod: RenderedObject, container: RenderedObject) => Promise<CommandResult>;
}

test('the DaemonSet on a node', { skip, timeout: 300_000 }, async (t) => {
  const dir = await openTempDir('daemonset');
  t.teardown(() => dir[Symbol.asyncDispose]());
  const name = `d${Math.random().toString(36).slice(2, 8)}`;
  const plan = planLab(TOPOLOGY, { name, cgroupRoot: findCgroupRoot() });
  const [cluster] = plan.clusters;
  if (cluster === undefined) throw new Error('the topology has no cluster');
  const node = cluster.first;
  const render: Rig['render'] = (values) =>
    renderAgent(cluster, node, { program: helm.program, home: dir.path, values });
  const pod = await render({});
  const refuseCalls = await buildRefuseCalls(dir.path);
  let before = '';
  await using lab = await openMesh(TOPOLOGY, {
    name,
    agentCommand: async (of, place) => {
      if (place.name !== NODE) return undefined;
      const { cniConf } = hostFolders(place);
      mkdirSync(cniConf, { recursive: true });
      writeFileSync(join(cniConf, CONF_FILE), CONF_TEXT, { mode: 0o644 });
      prepareKubelet(of, place);
      // Of a kube-proxy that uses the older kind of tables.
      await run(['iptables-legacy', '-t', 'nat', '-N', 'KUBE-SERVICES'], {
        netns: place.namespace,
      });
      before = await stateOf(place);
      return nodeCommand(pod, pod.containers[0], { node: place, refuseCalls });
    },
  });
  const runOnce: Rig['runOnce'] = (which, container) =>
    execute(nodeCommand(which, container, { node, refuseCalls }), {
      netns: node.namespace,
      cgroup: join(node.cgroup, 'system'),
      timeoutMs: 60_000,
    });
  const rig: Rig = { lab, node, pod, before, render, runOnce };
  await t.test('it has the rights of the manifest', (child) => rightsOfManifest(rig, child));
  await t.test('it does what an agent does', (child) => agentWorks(rig, child));
  await t.test("folders of CNI that are not root's are named", (child) =>
    foreignFolder(rig, child),
  );
  await t.test('hostPID: it sees namespaces by their processes', (child) =>
    hostProcesses(rig, child),
  );
  await lab.agent(NODE).stop();
  await t.test('it needs each of its capabilities, and says which is missing', (child) =>
    needsCapabilities(rig, child),
  );
  await t.test('its cleanup leaves the node as it was', (child) => cleansNode(rig, child));
});

/** Of the node, and of its folders. */
async function stateOf(node: NodePlan): Promise<string> {
  const { stdout } = await execute(HOST_STATE_COMMAND, { netns: node.namespace });
  const { cniConf } = hostFolders(node);
  const files = readdirSync(cniConf).map(
    (name) => `${name}: ${readFileSync(join(cniConf, name), 'utf8')}`,
  );
  return [stdout, ...files, ...readdirSync(node.bpfRoot)].join('\n');
}

/** Number of the container's first process, for all of this machine. */
function processOf({ node }: Pick<Rig, 'node'>): string {
  const processes = readFileSync(join(node.cgroup, 'agent/cgroup.procs'), 'utf8').split('\n');
  const found = processes.find((pid) => pid !== '' && statusOf(pid).startsWith('Name:\tnode\n'));
  if (found === undefined) throw new Error('no agent runs on the node');
  return found;
}

function statusOf(pid: string): string {
  return readFileSync(`/proc/${pid}/status`, 'utf8');
}

/** Runs a program in the container, as `kubectl exec` does. */
function inContainer(rig: Rig, argv: readonly string[]): Promise<CommandResult> {
  const into = ['--target', processOf(rig), '--mount', '--pid', '--net', '--cgroup'];
  return execute(['nsenter', ...into, '--root', '--wd=/', '--', ...argv]);
}

async function rightsOfManifest(rig: Rig, t: Test): Promise<void> {
  const { pod } = rig;
  const [agent] = pod.containers;
  t.same(agent.securityContext.capabilities, {
    drop: ['ALL'],
    add: NEEDED_CAPABILITIES.map(({ name }) => name),
  });
  // A machine in a sandbox may itself lack one that is for old kernels alone.
  const own = parseEffective(statusOf('self')) ?? 0n;
  const given = NEEDED_CAPABILITIES.reduce((mask, { bit }) => mask | (1n << BigInt(bit)), 0n);
  const status = statusOf(processOf(rig));
  for (const field of ['CapPrm', 'CapEff', 'CapBnd']) {
    const [, mask = ''] = new RegExp(`^${field}:\\t([0-9a-f]+)$`, 'm').exec(status) ?? [];
    t.equal(BigInt(`0x${mask}`), given & own, field);
  }
  t.match(status, /^Seccomp:\t2$/m, 'with a filter');
  t.match(status.match(/^NSpid:.*$/m)?.[0], /^NSpid:\t\d+\t1$/, 'it is the first of its processes');
  for (const path of ['/x', '/etc/x', '/opt/isthmus/x', '/run/x', '/proc/sys/kernel/hostname']) {
    const { stderr } = await inContainer(rig, ['sh', '-c', `echo x >${path}`]);
    t.match(stderr, /Read-only file system/, path);
  }
  const { stdout } = await inContainer(rig, ['cat', '/proc/self/mounts']);
  const expected = agent.volumeMounts.map(({ mountPath }: { mountPath: string }) => mountPath);
  for (const path of expected) t.match(stdout, ` ${path} `, `${path} is mounted`);
  t.notMatch(stdout, / \/host\/etc| \/var\/lib\/kubelet/);
}

async function agentWorks(rig: Rig, t: Test): Promise<void> {
  const { lab, node } = rig;
  const status = await untilReady(rig);
  t.same(problemsOf(status), [], 'nothing is wrong');
  t.match(status.registry, { healthy: true });
  t.match(
    status.services.translated,
    /^global .*: chain KUBE-SERVICES is there \(iptables-legacy\)/,
  );
  t.same(status.endpoints.map(({ pod }) => pod).sort(), [
    'default/client',
    'default/early',
    'default/vault',
    'default/web-alpha',
  ]);

  for (const family of [4, 6] as const) {
    const { stdout } = await curl(lab, 'client', urlOf(lab.pod('web-beta').ip(family), 8080));
    t.equal(stdout, `web-beta ${lab.pod('client').ip(family)}\n`, `IPv${family} to the peer`);
    const back = await curl(lab, 'friend', urlOf(lab.pod('early').ip(family), 8080));
    t.equal(back.stdout, `early ${lab.pod('friend').ip(family)}\n`, `IPv${family} from the peer`);
  }
  const url = urlOf(lab.clusterIp('alpha', 'web'), 80);
  const { byPod, failed } = await curlMany(lab, 'client', { url, times: 40 });
  t.same(Object.keys(byPod).sort(), ['web-alpha', 'web-beta'], 'a global service');
  t.equal(failed, 0);
  const onNode = await lab.execOnNode(NODE, ['curl', '-sS', '-m', '2', url]);
  t.match(onNode.stdout, /^web-(alpha|beta) /, 'the service, for programs of the node');

  const vault = urlOf(lab.pod('vault').ip(), 8080);
  const drop = firstDrop(rig);
  const refused = await curl(lab, 'stranger', vault);
  t.equal(refused.code, 28, 'who is not allowed gets no answer');
  t.match((await curl(lab, 'friend', vault)).stdout, /^vault /, 'and who is, gets one');
  t.match(await drop, lab.pod('stranger').ip(), 'the monitor tells of it');

  const { stdout: devices } = await lab.execOnNode(NODE, [
    'ip',
    '-details',
    'link',
    'show',
    'isthmus_vxlan',
  ]);
  t.match(devices, /vxlan external/);
  const { stdout: routes } = await lab.execOnNode(NODE, [
    'ip',
    'route',
    'get',
    lab.pod('web-beta').ip(),
  ]);
  t.match(routes, / dev isthmus_vxlan /, 'the node itself has a route');
  const pinned = readdirSync(join(node.bpfRoot, 'isthmus/maps'));
  t.ok(pinned.includes('mesh_ct') && pinned.length > 20, `${pinned.length} maps are pinned`);
  const { run, cniConf, cniBin } = hostFolders(node);
  t.same(
    readFileSync(join(cniBin, 'clustermesh-cni')),
    readFileSync(join(PLUGIN_FOLDER, 'clustermesh-cni')),
  );
  const { plugins } = JSON.parse(readFileSync(join(cniConf, CONF_FILE), 'utf8'));
  t.match(plugins, [
    { type: 'ptp' },
    { type: 'clustermesh-cni', socketPath: join(run, 'agent.sock') },
  ]);

  await inContainer(rig, ['sh', '-c', 'kill -USR2 1']);
  await lab.waitFor('the log to tell more', () =>
    /"logLevel":"debug","msg":"log level changed"/.test(readFileSync(lab.agent(NODE).log, 'utf8')),
  );

  await lab.agent(NODE).restart();
  const again = await curl(lab, 'client', urlOf(lab.pod('web-beta').ip(), 8080));
  t.match(again.stdout, /^web-beta /, 'over a restart of the container');
  await untilReady(rig);
}

function untilReady({ lab }: Rig): Promise<AgentStatus> {
  return lab.waitFor('the agent to be ready', async () => {
    const status = await lab.agent(NODE).status();
    return status.ready && status;
  });
}

/** What the monitor says of the first packet that the node drops. */
async function firstDrop({ node }: Rig): Promise<string> {
  const ending = new AbortController();
  const signal = AbortSignal.any([ending.signal, AbortSignal.timeout(20_000)]);
  let first = 'no drop was told';
  const query = new URLSearchParams({ kind: 'drop' });
  for await (const { line, event } of followEvents(node.socketPath, query, signal)) {
    if (event.kind === 'start' || ending.signal.aborted) continue;
    first = line;
    ending.abort();
  }
  return first;
}

async function foreignFolder({ lab, node }: Rig, t: Test): Promise<void> {
  const { cniConf } = hostFolders(node);
  const problems = async (): Promise<string> => problemsOf(await lab.agent(NODE).status()).join();
  chownSync(cniConf, 1000, 1000);
  chmodSync(cniConf, 0o755);
  writeFileSync(join(cniConf, CONF_FILE), CONF_TEXT);
  const text = await lab.waitFor('it to say so', async () => {
    const found = await problems();
    return found.includes('clustermesh-cni') && found;
  });
  t.match(text, /EACCES.*: root has to own the folders and files of CNI; else .* DAC_OVERRIDE/);
  chownSync(cniConf, 0, 0);
  // Another text: it need not wait for its next attempt.
  writeFileSync(join(cniConf, CONF_FILE), JSON.stringify(CONF));
  await lab.waitFor('it to be installed again', async () => {
    const left = await problems();
    if (left !== '') throw new LabError('command', left, { retryable: true });
    return true;
  });
  t.match(readFileSync(join(cniConf, CONF_FILE), 'utf8'), 'clustermesh-cni');
}

async function hostProcesses({ lab, render, runOnce }: Rig, t: Test): Promise<void> {
  const pod = await render({ 'agent.hostPID': true });
  const [container] = pod.containers;
  const { add } = container.securityContext.capabilities;
  t.ok(add.includes('SYS_PTRACE'));
  const [server] = readFileSync(join(lab.pod('early').cgroup, 'cgroup.procs'), 'utf8').split('\n');
  const look = { command: ['readlink'], args: [`/proc/${server}/ns/net`] };
  const seen = await runOnce(pod, { ...container, ...look });
  t.match(seen.stdout, /^net:\[\d+\]$/m);
  const capabilities = { drop: ['ALL'], add: add.filter((name: string) => name !== 'SYS_PTRACE') };
  const securityContext = { ...container.securityContext, capabilities };
  const hidden = await runOnce(pod, { ...container, ...look, securityContext });
  t.not(hidden.code, 0, 'for which it needs SYS_PTRACE');
}

/** What an agent runs that the kernel refuses without a capability. */
function needs(lab: Lab): Readonly<Record<string, readonly string[]>> {
  return {
    NET_ADMIN: ['ip', 'link', 'add', 'probe', 'type', 'vxlan', 'id', '9', 'dstport', '9'],
    NET_RAW: ['ping', '-c', '1', '-W', '1', '127.0.0.1'],
    SYS_ADMIN: ['nsenter', `--net=/run/netns/${lab.pod('client').netns}`, 'true'],
  };
}

async function needsCapabilities({ lab, pod, runOnce }: Rig, t: Test): Promise<void> {
  const [agent] = pod.containers;
  const withOnly = (add: readonly string[]): RenderedObject => ({
    ...agent,
    securityContext: { ...agent.securityContext, capabilities: { drop: ['ALL'], add } },
  });
  const calls = Object.entries(needs(lab));
  for (const [name, [program = '', ...args]] of calls) {
    const call = { command: [program], args };
    const allowed = await runOnce(pod, { ...agent, ...call });
    t.equal(allowed.code, 0, `${program} with ${name}: ${allowed.stderr}`);
    const others = NEEDED_CAPABILITIES.map((one) => one.name).filter((one) => one !== name);
    const refused = await runOnce(pod, { ...withOnly(others), ...call });
    t.not(refused.code, 0, `${program} without it`);
  }
  await lab.execOnNode(NODE, ['ip', 'link', 'delete', 'probe']);
  const ended = await runOnce(pod, withOnly([]));
  t.equal(ended.code, 1, 'an agent without any of them ends');
  for (const [name] of calls) {
    t.match(ended.stderr, `clustermesh-agent: the capability CAP_${name} is missing (`);
    t.match(ended.stderr, `add ${name} to securityContext.capabilities`);
  }
}

async function cleansNode({ lab, node, before, render, runOnce }: Rig, t: Test): Promise<void> {
  const pod = await render({ 'agent.cleanup': true });
  const [cleanup] = pod.initContainers;
  const { code, stdout, stderr } = await runOnce(pod, cleanup);
  t.same({ code, stdout, stderr }, { code: 0, stdout: '', stderr: '' }, "all is the agent's");
  const url = urlOf(lab.pod('early').ip(), 8080);
  t.match((await curl(lab, 'client', url)).stdout, /^early /, 'pods go on by their CNI');
  await lab.apiserver('alpha').stop();
  for (const { name } of lab.pods().filter((one) => one.node === NODE)) await lab.removePod(name);
  t.equal(await stateOf(node), before, 'nothing is left of it');
  t.same(readdirSync(hostFolders(node).cniBin), []);
  const again = await runOnce(pod, cleanup);
  t.equal(again.code, 0, 'a second time there is nothing to do');
}
