/** The key by which this cluster proves to its peers who it is. It lasts, and it never leaves the cluster. */
import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPair,
  type KeyObject,
  sign,
} from 'node:crypto';
import { link, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import { PeeringError } from './peering-error.ts';

const BITS = 3072;
const LEAST_BITS = 2048;
const generate = promisify(generateKeyPair);

/** A key with what others know of it. */
export interface PeeringKey {
  /** SubjectPublicKeyInfo in DER form. */
  readonly publicDer: Buffer;
  /** SHA-256 of that, base64url: `clientKeyHash` of our own MeshPeer. */
  readonly hash: string;
  /** RSA PKCS #1 v1.5 with SHA-256. */
  sign(input: Uint8Array): Buffer;
}

/** A new key in PEM (PKCS #8). */
export async function makePeeringKeyPem(): Promise<string> {
  const { privateKey } = await generate('rsa', { modulusLength: BITS });
  return privateKey.export({ type: 'pkcs8', format: 'pem' }).toString();
}

/** Reads a key. `where` is for messages. Throws PeeringError `key`. */
export function readPeeringKey(pem: string | Buffer, where: string): PeeringKey {
  let privateKey: KeyObject;
  try {
    privateKey = createPrivateKey(pem);
  } catch (cause) {
    throw new PeeringError(
      'key',
      `cannot use the peering key in ${where}: it holds no private key`,
      {
        cause,
      },
    );
  }
  const bits = privateKey.asymmetricKeyDetails?.modulusLength ?? 0;
  if (privateKey.asymmetricKeyType !== 'rsa' || bits < LEAST_BITS) {
    throw new PeeringError(
      'key',
      `cannot use the peering key in ${where}: expected RSA of ${LEAST_BITS} bits or more`,
    );
  }
  return peeringKeyOf(privateKey);
}

/** A key of a certificate. */
export type ClientKey = PeeringKey & {
  /** Private half, PEM (PKCS #8). */
  readonly pem: string;
};

/** Makes a key for a certificate. */
export async function makeClientKey(): Promise<ClientKey> {
  const { privateKey } = await generate('rsa', { modulusLength: LEAST_BITS });
  const pem = privateKey.export({ type: 'pkcs8', format: 'pem' }).toString();
  return { ...peeringKeyOf(privateKey), pem };
}

/**
 * Reads the key of a file, which is made when it is not there. Of several processes that make it at once one wins, and all of them
 * use its key. Throws PeeringError `key`.
 */
export async function openPeeringKeyFile(path: string): Promise<PeeringKey> {
  const found = await readIfThere(path);
  if (found !== undefined) return readPeeringKey(found, path);
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    await writeFile(temporary, await makePeeringKeyPem(), { mode: 0o600, flush: true });
    // Unlike a rename it takes nobody's place.
    await link(temporary, path).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error;
    });
  } catch (cause) {
    throw unreadable(path, 'write', cause);
  } finally {
    await rm(temporary, { force: true });
  }
  const written = await readIfThere(path);
  if (written === undefined) throw unreadable(path, 'read', new Error('it is gone again'));
  return readPeeringKey(written, path);
}

function peeringKeyOf(privateKey: KeyObject): PeeringKey {
  const publicDer = createPublicKey(privateKey).export({ type: 'spki', format: 'der' });
  return {
    publicDer,
    hash: createHash('sha256').update(publicDer).digest('base64url'),
    sign: (input) => sign('sha256', input, privateKey),
  };
}

async function readIfThere(path: string): Promise<Buffer | undefined> {
  try {
    return await readFile(path);
  } catch (cause) {
    if (cause instanceof Error && 'code' in cause && cause.code === 'ENOENT') return undefined;
    throw unreadable(path, 'read', cause);
  }
}

function unreadable(path: string, what: 'read' | 'write', cause: unknown): PeeringError {
  const why = cause instanceof Error ? cause.message : String(cause);
  return new PeeringError('key', `cannot ${what} the peering key ${path}: ${why}`, { cause });
}
