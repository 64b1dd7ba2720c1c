/**
 * The two folders that come of the peers: whom the gate believes (`--peer-trust-dir`) and how peers are read
 * (`--clustermesh-config`). Everything in them is ours. What is written has the name of its content, and the one file that
 * readers look for is put in its place last, so that nobody sees a key without its certificate.
 */
import { createHash, createPrivateKey, X509Certificate } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parse as parseYaml, stringify } from 'yaml';
import { z } from 'zod';
import { type ClusterName, parseClusterName } from '../../mesh/wire/ids.ts';
import type { MeshPeer } from './mesh-peer.ts';
import type { ClientPair } from './peer-enrolment.ts';

/** Paths of the folders. */
export interface ManagedFolderPaths {
  readonly trust: string;
  readonly clients: string;
}

/** What a folder shall hold of one peer. */
export interface ManagedPeer {
  readonly peer: Pick<MeshPeer, 'name' | 'spec'>;
  /** Undefined: it cannot be read yet, or what is there is left as it is. */
  readonly pair: ClientPair | undefined;
}

/** The folders. */
export interface ManagedFolders {
  readonly paths: ManagedFolderPaths;
  /** Peers of which there is anything. */
  names(): Promise<ReadonlySet<ClusterName>>;
  /** The certificate that a peer is read with; undefined: there is none that can be used. */
  readPair(name: ClusterName): Promise<ClientPair | undefined>;
  /** Believes a peer. True: something was changed. */
  trust(peer: Pick<MeshPeer, 'name' | 'spec'>): Promise<boolean>;
  /** Has a peer read. True: something was changed. */
  connect(peer: Pick<MeshPeer, 'name' | 'spec'>, pair: ClientPair): Promise<boolean>;
  /** Takes a peer out of both: nobody believes it when nobody reads it any more. */
  forget(name: ClusterName): Promise<void>;
}

const clientSchema = z.object({ 'cert-file': z.string(), 'key-file': z.string() });
const TRUST_FILE = /^(.+)\.crt$/;

/** Opens the folders; they are made where they are not there. */
export async function openManagedFolders(paths: ManagedFolderPaths): Promise<ManagedFolders> {
  const { trust, clients } = paths;
  for (const folder of [trust, clients]) {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    for (const file of await readdir(folder)) {
      // Of a process that was killed.
      if (file.endsWith('.tmp')) await rm(join(folder, file), { force: true });
    }
  }

  const removeOthers = async (name: ClusterName, kept: readonly string[]): Promise<void> => {
    for (const file of await readdir(clients)) {
      const isOurs = file === name || file.startsWith(`${name}.`);
      if (isOurs && !kept.includes(file)) await rm(join(clients, file), { force: true });
    }
  };
  return {
    paths,
    async names() {
      const found = new Set<ClusterName>();
      for (const file of await readdir(trust)) addName(found, TRUST_FILE.exec(file)?.[1]);
      for (const file of await readdir(clients)) {
        if (!file.includes('.')) addName(found, file);
      }
      return found;
    },
    async readPair(name) {
      try {
        const text = await readFile(join(clients, name), 'utf8');
        const { 'cert-file': certFile, 'key-file': keyFile } = clientSchema.parse(parseYaml(text));
        const certificate = await readFile(certFile, 'utf8');
        const privateKey = await readFile(keyFile, 'utf8');
        const fits = new X509Certificate(certificate).checkPrivateKey(createPrivateKey(privateKey));
        return fits ? { certificate, privateKey } : undefined;
      } catch {
        // Half written by a process that was killed, or not there: either way another one is got.
        return undefined;
      }
    },
    trust: ({ name, spec }) => replaceFile(join(trust, `${name}.crt`), spec.ca),
    async connect({ name, spec }, pair) {
      const caFile = `${name}.${shortHash(spec.ca)}.ca.crt`;
      const id = shortHash(pair.certificate);
      const [certFile, keyFile] = [`${name}.${id}.crt`, `${name}.${id}.key`];
      await replaceFile(join(clients, caFile), spec.ca);
      await replaceFile(join(clients, certFile), pair.certificate);
      await replaceFile(join(clients, keyFile), pair.privateKey);
      const config = {
        endpoints: spec.endpoints,
        'trusted-ca-file': join(clients, caFile),
        'cert-file': join(clients, certFile),
        'key-file': join(clients, keyFile),
        ...(spec.hostAliases.length === 0 ? {} : { 'cilium-host-aliases': spec.hostAliases }),
      };
      const isChanged = await replaceFile(join(clients, name), stringify(config));
      await removeOthers(name, [name, caFile, certFile, keyFile]);
      return isChanged;
    },
    async forget(name) {
      await rm(join(clients, name), { force: true });
      await removeOthers(name, []);
      await rm(join(trust, `${name}.crt`), { force: true });
    },
  };
}

/** Writes a file unless it holds the same. True: it was changed. */
async function replaceFile(path: string, content: string): Promise<boolean> {
  const present = await readFile(path, 'utf8').catch(() => undefined);
  if (present === content) return false;
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    await writeFile(temporary, content, { mode: 0o600, flush: true });
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw error;
  }
  return true;
}

function addName(names: Set<ClusterName>, text: string | undefined): void {
  try {
    if (text !== undefined) names.add(parseClusterName(text));
  } catch {
    // Not of a cluster: nothing that we have written.
  }
}

function shortHash(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 12);
}
