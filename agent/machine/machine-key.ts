/** The machine's key: made here, and never sent anywhere. */
import {
  createPrivateKey,
  createPublicKey,
  createSign,
  generateKeyPair,
  type KeyObject,
} from 'node:crypto';
import { promisify } from 'node:util';
import { MachineError, reasonOf } from './machine-error.ts';

const RSA_BITS = 2048;
const generate = promisify(generateKeyPair);

/** A private key, and what others may know of it. */
export interface MachineKey {
  /** PKCS #8. */
  readonly privatePem: string;
  /** SubjectPublicKeyInfo in DER form. */
  readonly publicDer: Buffer;
  /** RSA PKCS #1 v1.5 with SHA-256. */
  sign(input: Uint8Array): Buffer;
}

/** Makes a new key: some 100 ms. */
export async function makeMachineKey(): Promise<MachineKey> {
  const { privateKey } = await generate('rsa', { modulusLength: RSA_BITS });
  return keyOf(privateKey);
}

/** A key that was made before. Throws MachineError `state` when the text is none of ours. */
export function readMachineKey(privatePem: string): MachineKey {
  let key: KeyObject;
  try {
    key = createPrivateKey(privatePem);
  } catch (cause) {
    throw new MachineError('state', `it is not a private key: ${reasonOf(cause)}`, { cause });
  }
  if (key.asymmetricKeyType !== 'rsa') {
    throw new MachineError('state', `it is a key of type ${key.asymmetricKeyType}, expected RSA`);
  }
  return keyOf(key);
}

function keyOf(privateKey: KeyObject): MachineKey {
  return {
    privatePem: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
    publicDer: createPublicKey(privateKey).export({ type: 'spki', format: 'der' }),
    sign: (input) => createSign('sha256').update(input).sign(privateKey),
  };
}
