/** Peers as MeshPeer objects of an API server, and the key by which this cluster proves itself as a Secret there. */
import { z } from 'zod';
import type { Clock } from '../../mesh/runtime/clock.ts';
import { createFreshLook } from '../../mesh/runtime/fresh-look.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { ClusterName } from '../../mesh/wire/ids.ts';
import type { KubernetesApi } from '../kubernetes/api.ts';
import { KubernetesError } from '../kubernetes/kubernetes-error.ts';
import { type ReflectorStatus, reflect } from '../kubernetes/reflector.ts';
import { RESOURCES, resourcePath } from '../kubernetes/resource.ts';
import { ObjectError } from '../sources/object-error.ts';
import { type MeshPeer, meshPeerObject, parseMeshPeer } from './mesh-peer.ts';
import type { PeerListing, PeerProblem, PeerStore, StoredPeer } from './peer-store.ts';
import { PeeringError } from './peering-error.ts';
import { makePeeringKeyPem, type PeeringKey, readPeeringKey } from './peering-key.ts';

/** The Secret of the peering key, and the field that it is in. */
export const PEERING_KEY_SECRET = 'clustermesh-apiserver-peering-key';
const PEERING_KEY_FIELD = 'peering.key';
/** The ClusterRole in `rbac-peering.yaml`. */
const ROLE = 'isthmus-peering';
const ATTEMPTS = 5;
/** An API server that does not answer within this time is as good as gone. */
const LOOK_MS = 10_000;
/** Objects that went with their definition are kept so long after a new one stands: it is being upgraded, and they come back. */
const KEEP_WITHOUT_DEFINITION_MS = 600_000;

const objectSchema = z.looseObject({
  metadata: z.looseObject({ name: z.string(), resourceVersion: z.string().optional() }),
});
const secretSchema = z.object({ data: z.record(z.string(), z.base64()).default({}) });

/** An object as it was read: usable, or with what is wrong with it. */
interface ReadObject {
  readonly name: string;
  readonly reading:
    | { readonly kind: 'peer'; readonly peer: MeshPeer }
    | { readonly kind: 'unusable'; readonly problem: string };
}

/** Options of `createKubernetesPeerStore`. */
export interface KubernetesPeerStoreOptions {
  /** Where the Secrets are. */
  readonly namespace: string;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** Makes the store; nothing is read before it is watched. */
export function createKubernetesPeerStore(
  api: KubernetesApi,
  { namespace, clock, logger }: KubernetesPeerStoreOptions,
): PeerStore {
  const freshLook = createFreshLook();
  let reading: ReflectorStatus | undefined;
  const pathOf = (name: string, subresource?: string): string =>
    resourcePath(RESOURCES.meshPeers, { name, subresource });
  const read = async (name: string, signal: AbortSignal) => {
    const { body } = await api.request({ method: 'GET', path: pathOf(name), signal });
    return objectSchema.parse(body);
  };

  return {
    async *watch(signal) {
      const objects = new Map<string, ReadObject>();
      const good = new Map<string, StoredPeer>();
      let isWhole = false;
      const batches = reflect(api, RESOURCES.meshPeers, {
        parse: readObject,
        clock,
        logger,
        signal,
        freshLook,
        role: ROLE,
        onStatus: (status) => {
          reading = status;
        },
        keepWithoutDefinitionMs: KEEP_WITHOUT_DEFINITION_MS,
      });
      for await (const batch of batches) {
        for (const event of batch) {
          if (event.kind === 'synced') isWhole = true;
          else if (event.kind === 'upsert') objects.set(event.object.name, event.object);
          else objects.delete(event.object.name);
        }
        if (isWhole) yield listingOf(objects, good);
      }
    },
    reading: () => reading,
    async look(signal) {
      // Who watches waits for an API server that is gone, and says so elsewhere: who asks shall not.
      await asking('read the MeshPeer objects', async () => {
        const path = resourcePath(RESOURCES.meshPeers);
        await api.request({ method: 'GET', path, query: { limit: 1 }, timeoutMs: LOOK_MS, signal });
      });
      await freshLook.ask(signal);
    },
    async put(peer, signal) {
      const wanted = meshPeerObject(peer);
      await asking('write the MeshPeer', async () => {
        for (let attempt = 1; ; attempt += 1) {
          try {
            const found = await read(peer.name, signal).catch(ifNotFound);
            if (found === undefined) {
              const path = resourcePath(RESOURCES.meshPeers);
              await api.request({ method: 'POST', path, body: wanted, signal });
            } else {
              // Labels, owners and the like are others' affair.
              const body = { ...found, ...wanted, metadata: found.metadata };
              await api.request({ method: 'PUT', path: pathOf(peer.name), body, signal });
            }
            return;
          } catch (error) {
            const isRace = error instanceof KubernetesError && error.code === 'conflict';
            if (!isRace || attempt === ATTEMPTS) throw error;
          }
        }
      });
    },
    async remove(name, signal) {
      await asking('write the MeshPeer', async () => {
        await api.request({ method: 'DELETE', path: pathOf(name), signal }).catch(ifNotFound);
      });
    },
    async readClientCertificate({ name, spec }, signal) {
      const { clientCertificate } = spec;
      if (clientCertificate?.kind !== 'secret') {
        throw new Error(`peer ${name} names files: expected clientCertificateSecret`);
      }
      const data = await readSecret(api, { namespace, name: clientCertificate.name, signal });
      const field = (key: string): string => {
        const text = data?.[key];
        if (text !== undefined) return text;
        const what = data === undefined ? 'does not exist' : `lacks ${key}`;
        throw new Error(`Secret ${namespace}/${clientCertificate.name} ${what}`);
      };
      return { certificate: field('tls.crt'), privateKey: field('tls.key') };
    },
    async writeStatus(peer, conditions, signal) {
      const status = {
        observedGeneration: peer.generation,
        conditions: conditions.map(({ type, status: holds, reason, message, since }) => ({
          type,
          status: holds ? 'True' : 'False',
          observedGeneration: peer.generation,
          lastTransitionTime: new Date(since).toISOString().replace(/\.\d{3}Z$/, 'Z'),
          reason,
          message,
        })),
      };
      await api.request({
        method: 'PATCH',
        path: pathOf(peer.name, 'status'),
        body: { status },
        contentType: 'application/merge-patch+json',
        signal,
      });
    },
  };
}

/** Reads the peering key of the cluster from its Secret, which is made when it is not there. Throws PeeringError `key`. */
export async function openPeeringKeySecret(
  api: KubernetesApi,
  { namespace, signal }: { readonly namespace: string; readonly signal: AbortSignal },
): Promise<PeeringKey> {
  const where = `Secret ${namespace}/${PEERING_KEY_SECRET}`;
  const read = async (): Promise<PeeringKey | undefined> => {
    const data = await readSecret(api, { namespace, name: PEERING_KEY_SECRET, signal });
    if (data === undefined) return undefined;
    const pem = data[PEERING_KEY_FIELD];
    if (pem === undefined) {
      throw new PeeringError('key', `${where} lacks ${PEERING_KEY_FIELD}: delete it, or fill it`);
    }
    return readPeeringKey(pem, where);
  };
  try {
    const found = await read();
    if (found !== undefined) return found;
    const pem = await makePeeringKeyPem();
    const body = {
      apiVersion: 'v1',
      kind: 'Secret',
      metadata: { name: PEERING_KEY_SECRET, namespace },
      type: 'Opaque',
      data: { [PEERING_KEY_FIELD]: Buffer.from(pem).toString('base64') },
    };
    const path = resourcePath(RESOURCES.secrets, { namespace });
    await api.request({ method: 'POST', path, body, signal }).catch((error: unknown) => {
      // Another replica was faster: its key is the cluster's.
      if (!(error instanceof KubernetesError && error.code === 'conflict')) throw error;
    });
    const made = await read();
    if (made !== undefined) return made;
  } catch (cause) {
    signal.throwIfAborted();
    if (!(cause instanceof KubernetesError)) throw cause;
    throw new PeeringError('key', `cannot use ${where}: ${cause.message} (Role ${ROLE})`, {
      cause,
    });
  }
  throw new PeeringError('key', `cannot use ${where}: it is gone again`);
}

function readObject(object: unknown): ReadObject {
  const { name } = objectSchema.parse(object).metadata;
  try {
    return { name, reading: { kind: 'peer', peer: parseMeshPeer(object) } };
  } catch (error) {
    if (!(error instanceof ObjectError)) throw error;
    return { name, reading: { kind: 'unusable', problem: error.message } };
  }
}

/** `good`: what each object said last that could be used. */
function listingOf(
  objects: ReadonlyMap<string, ReadObject>,
  good: Map<string, StoredPeer>,
): PeerListing {
  const problems: PeerProblem[] = [];
  for (const name of [...good.keys()]) if (!objects.has(name)) good.delete(name);
  for (const { name, reading } of objects.values()) {
    const source = `MeshPeer ${name}`;
    if (reading.kind === 'peer') good.set(name, { peer: reading.peer, source });
    else problems.push({ name, source, message: reading.problem });
  }
  const peers = new Map<ClusterName, StoredPeer>();
  for (const stored of good.values()) peers.set(stored.peer.name, stored);
  return { peers, problems };
}

async function readSecret(
  api: KubernetesApi,
  options: { readonly namespace: string; readonly name: string; readonly signal: AbortSignal },
): Promise<Readonly<Record<string, string>> | undefined> {
  const { namespace, name, signal } = options;
  const path = resourcePath(RESOURCES.secrets, { namespace, name });
  const answer = await api.request({ method: 'GET', path, signal }).catch(ifNotFound);
  if (answer === undefined) return undefined;
  const { data } = secretSchema.parse(answer.body);
  return Object.fromEntries(
    Object.entries(data).map(([key, value]) => [
      key,
      Buffer.from(value, 'base64').toString('utf8'),
    ]),
  );
}

function ifNotFound(error: unknown): undefined {
  if (error instanceof KubernetesError && error.code === 'not-found') return undefined;
  throw error;
}

async function asking(what: string, ask: () => Promise<void>): Promise<void> {
  try {
    await ask();
  } catch (cause) {
    if (!(cause instanceof KubernetesError)) throw cause;
    const { retryable } = cause;
    throw new PeeringError(
      retryable ? 'unreachable' : 'read-only',
      `cannot ${what}: ${cause.message}`,
      {
        retryable,
        cause,
      },
    );
  }
}
