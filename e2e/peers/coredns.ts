/** CoreDNS in front of a test cluster, with its `kubernetes` plugin and the zones of several clusters (MCS-API). */
import { Resolver } from 'node:dns/promises';
import { writeFile } from 'node:fs/promises';
import { startChild } from '../../mesh/runtime/child-process.ts';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { findFreePort } from '../../mesh/testing/free-port.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { untilReady } from '../../mesh/testing/until-ready.ts';

/** Its name for `needPeers`. */
export const corednsPeer = 'coredns/coredns';

const READY_TIMEOUT_MS = 60_000;

/** A running CoreDNS. Disposing ends it. */
export interface Coredns extends AsyncDisposable {
  /** UDP and TCP port on 127.0.0.1. */
  readonly port: number;
  /** What it wrote, newest last, 20 lines at most. */
  readonly lastLines: readonly string[];
  /** Answers to a question, sorted, as text: SRV as `priority weight port target`. Empty when there is no such name. */
  query(name: string, type: 'A' | 'AAAA' | 'SRV' | 'PTR'): Promise<string[]>;
}

/** Options of `startCoredns`. */
export interface CorednsOptions {
  /** Kubeconfig of a user that may list and watch what the plugin reads. */
  readonly kubeconfig: string;
  /** Default `cluster.local`. */
  readonly clusterDomain?: string;
  /** Zones of the MCS-API, which need its CRDs. Default `clusterset.local`; empty: none. */
  readonly multiclusterZones?: readonly string[];
  /** In place of the whole configuration; `{port}`, `{readyPort}` and `{kubeconfig}` are filled in. */
  readonly corefile?: string;
}

/** Starts it and resolves when it has read the cluster and answers. */
export async function startCoredns(options: CorednsOptions): Promise<Coredns> {
  const dir = await openTempDir('coredns');
  const stopping = new AbortController();
  const [port, readyPort] = [await findFreePort(), await findFreePort()];
  const corefile = dir.file('Corefile');
  await writeFile(
    corefile,
    (options.corefile ?? defaultCorefile(options))
      .replaceAll('{port}', String(port))
      .replaceAll('{readyPort}', String(readyPort))
      .replaceAll('{kubeconfig}', options.kubeconfig),
  );
  const child = startChild(projectPath(`dist/peers/${corednsPeer}`), [`-conf=${corefile}`], {
    signal: stopping.signal,
    name: 'coredns',
    cwd: dir.path,
  });
  const dispose = async (): Promise<void> => {
    await child.stop();
    stopping.abort();
    await dir[Symbol.asyncDispose]();
  };
  const resolver = new Resolver({ timeout: 2000, tries: 3 });
  resolver.setServers([`127.0.0.1:${port}`]);
  try {
    await untilReady(
      child,
      async () => {
        const { status } = await fetch(`http://127.0.0.1:${readyPort}/ready`);
        if (status !== 200) throw new Error(`it answers ${status}`);
        // It says so a moment before it listens.
        await ask(
          resolver,
          `kubernetes.default.svc.${options.clusterDomain ?? 'cluster.local'}`,
          'A',
        );
      },
      { what: 'coredns', timeoutMs: READY_TIMEOUT_MS },
    );
  } catch (error) {
    await dispose();
    throw error;
  }
  return {
    port,
    lastLines: child.lastLines,
    query: (name, type) => ask(resolver, name, type),
    [Symbol.asyncDispose]: dispose,
  };
}

function defaultCorefile(options: CorednsOptions): string {
  const { clusterDomain = 'cluster.local', multiclusterZones = ['clusterset.local'] } = options;
  const multicluster =
    multiclusterZones.length === 0 ? '' : `multicluster ${multiclusterZones.join(' ')}`;
  // No cache: tests look for what changes.
  return `.:{port} {
    bind 127.0.0.1
    errors
    ready 127.0.0.1:{readyPort}
    kubernetes ${[clusterDomain, ...multiclusterZones].join(' ')} in-addr.arpa ip6.arpa {
        kubeconfig {kubeconfig} test
        ttl 0
        ${multicluster}
    }
}
`;
}

async function ask(
  resolver: Resolver,
  name: string,
  type: 'A' | 'AAAA' | 'SRV' | 'PTR',
): Promise<string[]> {
  try {
    if (type === 'SRV') {
      const records = await resolver.resolveSrv(name);
      return records.map((one) => `${one.priority} ${one.weight} ${one.port} ${one.name}`).sort();
    }
    const lookups = {
      A: () => resolver.resolve4(name),
      AAAA: () => resolver.resolve6(name),
      PTR: () => resolver.resolvePtr(name),
    };
    return (await lookups[type]()).sort();
  } catch (error) {
    if (error instanceof Error && 'code' in error) {
      if (error.code === 'ENOTFOUND' || error.code === 'ENODATA') return [];
    }
    throw error;
  }
}
