/** Whether a kube-proxy translates Services on this node, told by what it leaves there. */
import { execFile } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { get } from 'node:http';

/** What is looked at; tests put in what no test machine has. */
export interface KubeProxyFacts {
  /** What a kube-proxy of this network namespace answers to "which mode?"; undefined: nobody answers. */
  proxyMode(): Promise<string | undefined>;
  /** Number of a process named kube-proxy in this network namespace. */
  process(): number | undefined;
  /** Output of a program; undefined: it failed or is not there. */
  output(command: string, args: readonly string[]): Promise<string | undefined>;
  /** Text of a file, empty where there is none. */
  text(path: string): string;
  hasDevice(name: string): boolean;
}

/** Where kube-proxy answers by default (`--metrics-bind-address`). */
const MODE_URL = 'http://127.0.0.1:10249/proxyMode';
const MODES: readonly string[] = ['iptables', 'ipvs', 'nftables', 'kernelspace'];
const TIMEOUT_MS = 3000;
const NAME = 'kube-proxy';
/** Its table in nft mode is named after it; its first chain in iptables mode; its device in IPVS mode. */
const CHAIN = 'KUBE-SERVICES';
const DEVICE = 'kube-ipvs0';
const IPTABLES = [
  { command: 'iptables-nft', tables: undefined },
  { command: 'ip6tables-nft', tables: undefined },
  { command: 'iptables-legacy', tables: '/proc/net/ip_tables_names' },
  { command: 'ip6tables-legacy', tables: '/proc/net/ip6_tables_names' },
] as const;

/**
 * Looks for a kube-proxy, running or what one has left: its rules translate as long as they stand. Returns the first thing
 * found, in words; undefined: nothing of it is there. Changes nothing, and what cannot be looked at counts as not there.
 */
export async function findKubeProxy(
  facts: KubeProxyFacts = thisNode(),
): Promise<string | undefined> {
  const mode = await facts.proxyMode();
  if (mode !== undefined && MODES.includes(mode)) {
    return `a kube-proxy in ${mode} mode answers on ${MODE_URL}`;
  }
  const pid = facts.process();
  if (pid !== undefined) return `process ${pid} is a kube-proxy`;
  if (facts.hasDevice(DEVICE)) return `device ${DEVICE} is there`;
  const tables = (await facts.output('nft', ['list', 'tables'])) ?? '';
  const table = tables
    .split('\n')
    .find((line) => /^table (ip|ip6|inet) kube-proxy$/.test(line.trim()));
  if (table !== undefined) return `nft ${table.trim()} is there`;
  for (const { command, tables: list } of IPTABLES) {
    // Only to ask would make the legacy table, where there is none.
    if (list !== undefined && !facts.text(list).split('\n').includes('nat')) continue;
    const rules = await facts.output(command, ['-w', '2', '-t', 'nat', '-S', CHAIN, '1']);
    if (rules !== undefined) return `chain ${CHAIN} is there (${command})`;
  }
  return undefined;
}

/** The facts of the node, or container with the node's network, that we run on. */
export function thisNode(): KubeProxyFacts {
  return {
    proxyMode: askMode,
    process: findProcess,
    output: (command, args) =>
      new Promise((resolve) => {
        execFile(command, [...args], { timeout: TIMEOUT_MS }, (error, stdout) =>
          resolve(error === null ? stdout : undefined),
        );
      }),
    text: (path) => readText(path) ?? '',
    hasDevice: (name) => existsSync(`/sys/class/net/${name}`),
  };
}

function askMode(): Promise<string | undefined> {
  return new Promise((resolve) => {
    const request = get(MODE_URL, { timeout: TIMEOUT_MS }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (part: string) => {
        text += part;
        // Somebody else listens there.
        if (text.length > 100) request.destroy();
      });
      response.on('end', () => resolve(response.statusCode === 200 ? text.trim() : undefined));
      response.on('error', () => resolve(undefined));
      response.on('close', () => resolve(undefined));
    });
    request.on('timeout', () => request.destroy());
    request.on('error', () => resolve(undefined));
  });
}

function findProcess(): number | undefined {
  const network = networkOf('self');
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    if (readText(`/proc/${name}/comm`)?.trim() !== NAME) continue;
    // One in a network of its own (kind, a test) has nothing to do with ours.
    if (network !== undefined && networkOf(name) === network) return Number(name);
  }
  return undefined;
}

function networkOf(process: string): string | undefined {
  try {
    return readlinkSync(`/proc/${process}/ns/net`);
  } catch {
    // It has ended, or is not ours to look at.
    return undefined;
  }
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    // Not there, or gone meanwhile.
    return undefined;
  }
}
